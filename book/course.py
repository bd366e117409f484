"""A Sphinx extension: alternative texts and anchors as the notebooks of this course have them."""

import json
import re

FIGURE = re.compile(r"\*Figure:\s+(.+?)\*(?!\w)", re.DOTALL)


def anchor(title):
    """The anchor that JupyterLab gives to a heading."""
    return title.replace(" ", "-")


def alternative_text(above):
    """The description in `*Figure: ...*`, as plain words, or None."""
    described = FIGURE.search(above)
    return " ".join(re.sub(r"[`$]", "", described[1]).split()) if described else None


def give_figures_their_alternative_text(app, name, source):
    """What the text above a code cell says of the figure is the alternative text of the picture that the cell shows."""
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for above, cell in zip(notebook["cells"], notebook["cells"][1:]):
        if cell["cell_type"] == "code" and (described := alternative_text("".join(above["source"]))):
            cell["metadata"]["mystnb"] = {"image": {"alt": described}}
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", give_figures_their_alternative_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
