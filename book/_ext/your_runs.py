"""Lists the reader's runs on every page, each under its own name.

Executed copies in book/runs/ all have the title of the notebook they are copies of, so the file's name is added to it.
They have its labels too, which become the copy's own, so that a reference in it leads to its own figure. And Sphinx
writes only pages whose own text changed, so a new run would be missing from the sidebars of all others: the book is a few
pages, and each build writes them all. No notebook is run again for any of this.
"""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform


class LabelsOfARun(SphinxTransform):
    """In an executed copy the label "fig-steps" becomes "fig-steps of runs/quick", and so do references to it."""

    default_priority = 840  # before Sphinx collects labels, at 850

    def apply(self, **kwargs: object) -> None:
        """Called by Sphinx."""
        if not self.env.docname.startswith("runs/"):
            return
        document = self.document
        labels = {name: f"{name} of {self.env.docname}" for name, explicit in document.nametypes.items() if explicit}
        for name, own in labels.items():
            document.nametypes[own] = document.nametypes.pop(name)
            document.nameids[own] = document.nameids.pop(name)
        for node in document.findall(nodes.Element):
            if "names" in node:
                node["names"] = [labels.get(name, name) for name in node["names"]]
        for reference in document.findall(addnodes.pending_xref):
            reference["reftarget"] = labels.get(reference["reftarget"], reference["reftarget"])


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
    app.add_transform(LabelsOfARun)
    app.connect("doctree-read", name_the_run, priority=100)  # before Sphinx collects the titles, at 500
    app.connect("env-updated", all_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
