"""What a page of the built book holds, without a browser."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The addresses a page fetches, its images, its links, and the text a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        if tag in ("img", "script", "iframe", "source", "video") and values.get("src"):
            self.fetched.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.fetched.append(str(values["href"]))
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))

    def handle_data(self, data: str) -> None:
        self.text += data
