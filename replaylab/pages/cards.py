"""Cards of claims: a claim's verdict, its effect and a plain sentence, with a link to the page of its evidence."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

from IPython.display import HTML

from replaylab.pages import style, verdicts


@dataclass(frozen=True)
class Card:
    """What a card shows."""

    name: str
    """of the claim, such as "C2" """
    line: str
    """the claim in a sentence"""
    verdict: str
    """a key of `verdicts.WORDS`, or another word, which is shown as it is"""
    effect: str
    page: str
    """the name of the notebook or page with the evidence"""


def in_a_grid(shown: Iterable[Card]) -> HTML:
    """The cards side by side."""
    return HTML(f'{style.on_the_page("rl-cards")}<div class="rl-cards">{"".join(map(_html, shown))}</div>')


def _html(card: Card) -> str:
    word = verdicts.WORDS.get(card.verdict, card.verdict)  # type: ignore[call-overload]
    return (
        f'<a class="rl-card rl-{word.replace(" ", "-")}" href="{card.page}.html"><strong>{html.escape(card.name)}</strong> '
        f"<em>{html.escape(word)}</em><span>{html.escape(card.line)}</span><small>{html.escape(card.effect)}</small></a>"
    )
