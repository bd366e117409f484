"""A Sphinx extension: notebooks as this course writes them, playgrounds beside the pages, the cheat sheet as a PDF."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from texts import alternative_text, with_links, without_marks

LOG = logging.getLogger(__name__)
FOLDER = Path(__file__).parent / "playgrounds"

# name: (title, what one does there, lessons it belongs to, the widget whose place it takes without a kernel).
# One whose page is not there is left out. Its line in common.js puts it among the links of the others.
PLAYGROUNDS = {
    "draw": (
        "Draw your own",
        "Draw letters of your own and let three learners adapt to them.",
        ("01_few_shot_tasks", "04_maml_on_characters"),
        "DrawingPad",
    ),
    "bowl": (
        "Quadratic bowl",
        "Drag θ over two tasks' contours and see what the Hessian does to the meta-gradient.",
        ("02_gradients_through_gradients", "05_fomaml"),
        None,
    ),
    "sinusoid": (
        "Sinusoid",
        "Drag the points of a wave, step through the inner loop, compare initialisations.",
        ("03_maml_from_scratch", "09_maml_plus_plus"),
        "SinusoidExplorer",
    ),
    "trajectories": (
        "Trajectories",
        "Follow three learners through the steps on one task: predictions, curves, landscape.",
        ("10_trajectories",),
        "TrajectoryExplorer",
    ),
}


def there(name):
    """Whether the playground's page exists."""
    return (FOLDER / f"{name}.html").exists()


def as_sphinx_takes_it(app, name, source):
    """What JupyterLab shows by itself and Sphinx does not: attached images, alternative texts, links to playgrounds."""
    if not str(app.env.doc2path(name)).endswith(".ipynb"):
        source[0] = with_links(source[0])
        return
    notebook = json.loads(source[0])
    cells = notebook["cells"]
    for cell in cells:
        text = "".join(cell["source"])
        for file, kinds in cell.pop("attachments", {}).items():  # images written out in the text
            kind, content = next(iter(kinds.items()))
            text = text.replace(f"attachment:{file}", f"data:{kind};base64,{content}")
        cell["source"] = with_links(text) if cell["cell_type"] == "markdown" else without_marks(text)
    if name.startswith("solutions/"):  # made of one source with the exercises, whose titles they have
        cells[0]["source"] = cells[0]["source"].replace("# Exercise", "# Solution", 1)
    for above, cell in zip(cells, cells[1:]):
        if cell["cell_type"] == "code" and (described := alternative_text("".join(above["source"]))):
            cell["metadata"]["mystnb"] = {"image": {"alt": described}}
    notebook["cells"] = [part for cell in cells for part in (cell, *instead_of_widget(cell))]
    source[0] = json.dumps(notebook)


def instead_of_widget(cell):
    """Under a cell that shows a widget, which needs a kernel: the picture of its playground and the way there."""
    for name, (title, _, _, widget) in PLAYGROUNDS.items():
        if widget and there(name) and cell["cell_type"] == "code" and f"{widget}(" in cell["source"]:
            page, picture = f"../book/playgrounds/{name}.html", FOLDER / "pictures" / f"{name}.png"
            image = f'<img src="../book/playgrounds/pictures/{name}.png" width="640" alt="The playground {title}.">'
            shown = f'<a href="{page}">{image}</a>' if picture.exists() else ""
            words = f'The widget needs a running kernel. <a href="{page}">The playground {title}</a> shows the same.'
            text = f'<div class="instead">{shown}<p>{words}</p></div>'
            yield {"cell_type": "markdown", "metadata": {}, "source": text, "id": f"{cell['id']}-playground"[-64:]}


class Playgrounds(SphinxDirective):
    """The playgrounds as cards; for pages in book/."""

    def run(self):
        cards = []
        for name, (title, what, lessons, _) in PLAYGROUNDS.items():
            if not there(name):
                continue
            page, picture = f"playgrounds/{name}.html", f"playgrounds/pictures/{name}.png"
            image = (
                f'<img src="{picture}" width="320" alt="">' if (FOLDER / "pictures" / f"{name}.png").exists() else ""
            )
            where = ", ".join(f'<a href="../notebooks/{lesson}.html">{lesson[:2]}</a>' for lesson in lessons)
            cards.append(
                f'<li>{image}<a href="{page}">{title}</a><p>{what}</p><p class="lessons">Lesson {where}</p></li>'
            )
        return [nodes.raw("", f'<ul class="cards">{"".join(cards)}</ul>', format="html")]


def with_playgrounds(app, error):
    """Copy the playgrounds beside the pages; there they also lead to the course and to their lessons."""
    if error or app.builder.name != "html":
        return
    target = Path(app.outdir) / "book" / "playgrounds"
    shutil.copytree(FOLDER, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("alone"))
    for page in target.glob("*.html"):
        lessons = PLAYGROUNDS.get(page.stem, (None, None, (), None))[2]
        links = ['<a href="../index.html">The course</a>']
        links += [f'<a href="../../notebooks/{lesson}.html">Lesson {lesson[:2]}</a>' for lesson in lessons]
        text = page.read_text(encoding="utf-8").replace("<!-- the book's links -->", "".join(links))
        page.write_text(text, encoding="utf-8")


def with_printed_sheet(app, error):
    """Print the cheat sheet, two pages, beside its page, which links to it where there is Chromium."""
    if error or app.builder.name != "html":
        return
    page = Path(app.outdir) / "book" / "cheat_sheet.html"
    printed = page.with_suffix(".pdf")
    printed.unlink(missing_ok=True)
    if not page.exists():  # a build of other pages
        return
    if not app.config.chromium:
        message = "The cheat sheet has no PDF: there is no Chromium to print it; MAMLCOURSE_CHROMIUM can name one."
        LOG.warning(message, type="course", subtype="pdf")
        return
    with TemporaryDirectory() as profile:
        # Chromium's virtual time passes only while nothing loads: MathJax has it all, however slow the computer.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=20000"]
        command = [
            app.config.chromium,
            *flags,
            f"--user-data-dir={profile}",
            f"--print-to-pdf={printed}",
            page.as_uri(),
        ]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=300).stderr
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise ExtensionError(f"{app.config.chromium} could not print the cheat sheet: {problem}") from problem
    if not printed.exists():
        raise ExtensionError(f"{app.config.chromium} did not print the cheat sheet: {said[-500:]}")
    pages = len(re.findall(rb"/Type /Page\b(?!s)", printed.read_bytes()))
    if pages != 2:
        LOG.warning(f"The cheat sheet's PDF has {pages} pages instead of two: see @media print in book/course.css.")


def setup(app):
    app.add_config_value("chromium", None, "html", (str, type(None)))
    app.connect("source-read", as_sphinx_takes_it)
    app.connect("build-finished", with_playgrounds)
    app.connect("build-finished", with_printed_sheet)
    app.add_directive("playgrounds", Playgrounds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
