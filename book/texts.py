"""What the book changes in the texts of notebooks; needs no Sphinx."""

import html
import re

FIGURE = re.compile(r"\*(?:Figure|Expected figure[^:*]*):\s+(.+?)\*(?!\w)", re.DOTALL)
PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")
TO_PLAYGROUND = re.compile(r"(?<!`)\[([^\]]+)\]\(((?:\.\./)?(?:book/)?playgrounds/[^)\s]+)\)")


def anchor(title):
    """The anchor that JupyterLab gives to a heading."""
    return title.replace(" ", "-")


def alternative_text(above):
    """The description in `*Figure: ...*`, in exercises `*Expected figure: ...*`, as plain words; or None."""
    described = FIGURE.search(above)
    return " ".join(re.sub(r"[`$]", "", described[1]).split()) if described else None


def with_links(text):
    """Papers lead to their pages; playgrounds are no documents of Sphinx, so their links are HTML. The lessons link to
    those in one file, which JupyterLab can show; the book has the others."""
    text = PAPER.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return TO_PLAYGROUND.sub(
        lambda link: f'<a href="{html.escape(link[2].replace("/alone/", "/"))}">{link[1]}</a>', text
    )


def without_marks(code):
    """Without nbval's comments, which are for the tests."""
    return re.sub(r"^# NBVAL_\w+\n", "", code)
