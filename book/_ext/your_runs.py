"""Are the reader's runs listed on every page, each under its own name?

Executed copies in book/runs/ all have the title of the notebook they are copies of, so the file's name is added to it.
And Sphinx writes only pages whose own text changed, so a new run would be missing from the sidebars of all others: the
book is a few pages, and each build writes them all. No notebook is run again for either.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def name_the_run(app: Sphinx, doctree: nodes.document) -> None:
    """Add the file's name to the title of an executed notebook: "The replay sweep (quick)"."""
    folder, _, name = app.env.docname.rpartition("/")
    title = next(iter(doctree.findall(nodes.title)), None)
    if folder == "runs" and app.env.doc2path(app.env.docname).endswith(".ipynb") and title is not None:
        title += nodes.Text(f" ({name})")


def all_pages(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The pages to write besides those that changed: all."""
    return sorted(env.found_docs)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", name_the_run, priority=100)  # before Sphinx collects the titles, at 500
    app.connect("env-updated", all_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
