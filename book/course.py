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


def as_sphinx_takes_it(app, name, source):
    """Attached images go into the text; what the text above a code cell says of the figure becomes the alternative
    text of the image that the cell shows."""
    if name.startswith("book/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:  # Sphinx knows no attachments, but images written out in the text
        for file, kinds in cell.pop("attachments", {}).items():
            kind, content = next(iter(kinds.items()))
            cell["source"] = "".join(cell["source"]).replace(f"attachment:{file}", f"data:{kind};base64,{content}")
    for above, cell in zip(notebook["cells"], notebook["cells"][1:]):
        if cell["cell_type"] == "code" and (described := alternative_text("".join(above["source"]))):
            cell["metadata"]["mystnb"] = {"image": {"alt": described}}
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", as_sphinx_takes_it)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
