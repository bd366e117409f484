"""The lint of the course's template: each check returns complaints, and is proved on a notebook broken on purpose."""

import ast
import copy
import re
import runpy
from functools import lru_cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import nbformat
import pytest

from mamlcourse.records import read_json

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
RUNNER = runpy.run_path(str(ROOT / "tools" / "run_notebooks.py"))
FIGURE = runpy.run_path(str(ROOT / "book" / "texts.py"))["FIGURE"]
COURSE = {
    "00_start_here": "00 Start here",
    "01_few_shot_tasks": "01 Few-shot tasks",
    "02_gradients_through_gradients": "02 Gradients through gradients",
    "03_maml_from_scratch": "03 MAML from scratch",
    "04_maml_on_characters": "04 MAML on characters",
    "05_fomaml": "05 FOMAML",
    "06_maml_vs_fomaml": "06 MAML vs FOMAML",
    "07_multi_step_loss": "07 Multi-step loss",
    "08_learned_rates": "08 Learned learning rates",
    "09_maml_plus_plus": "09 MAML++",
    "09b_feature_reuse": "09b Feature reuse or rapid learning",
    "10_trajectories": "10 Trajectories",
    "11_bigger_and_faster": "11 Bigger and faster",
    "12_your_own_model_and_data": "12 Your own model and data",
    "13_which_algorithm": "13 Which algorithm",
}
# The lessons with answers after predictions, cells for the reader to fill, and a self-test. Others may join.
SECOND_EDITION = (
    "00_start_here", "01_few_shot_tasks", "02_gradients_through_gradients", "03_maml_from_scratch",
    "04_maml_on_characters", "05_fomaml", "06_maml_vs_fomaml", "07_multi_step_loss", "08_learned_rates",
    "09_maml_plus_plus", "09b_feature_reuse", "10_trajectories",
    "11_bigger_and_faster", "12_your_own_model_and_data", "13_which_algorithm",
)  # fmt: skip
ANSWER, SOLUTION = "<details><summary>Answer</summary>", "<details><summary>Solution</summary>"
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
SETTINGS_LINE = 'DATASET = os.environ.get("MAMLCOURSE_DATASET", "glyphs")  # or "omniglot"'
LONGEST_RUN, WHOLE_COURSE, LARGEST_FILE = 90, 720, 1_500_000


def text_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def whole_text(notebook):
    return "\n\n".join(cell.source for cell in text_cells(notebook))


def headings(notebook):
    """[(level, title)] of a notebook, code blocks left out."""
    prose = re.sub(r"^```.*?^```", "", whole_text(notebook), flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), title.strip()) for marks, title in re.findall(r"^(#+) +(.+)$", prose, re.MULTILINE)]


def sections(notebook):
    """{title of a `## ` section: its text}."""
    parts = re.split(r"^## +(.+)$", whole_text(notebook), flags=re.MULTILINE)
    return dict(zip((title.strip() for title in parts[1::2]), parts[2::2]))


def syntax(cell):
    """A code cell as Python, without the lines that only IPython understands."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE))


def imports(cell):
    return [node for node in ast.walk(syntax(cell)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def pictures(cell):
    return sum(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))


# --- The checks: each takes a notebook's name, the notebook and the course, and returns a list of complaints. ---


def first_cell(name, notebook, course):
    first = notebook.cells[0]
    if first.cell_type != "markdown":
        return ["the first cell is not text"]
    forms = {
        f"the title '# {COURSE.get(name)}'": rf"\A# {re.escape(COURSE.get(name, name))}\n",
        "the question in bold": r"\A.*\n\n\*\*[^*]+\?\*\*\n",
        "'About N minutes to read, about M seconds to run on two CPU cores. You need ...'": (
            r"^About \d+ minutes to read, about \d+ seconds to run on two CPU cores\. You need "
        ),
        "'You will' and three to six points": r"^You will\n\n(?:- [^\n]+\n(?:  [^\n]+\n)*){3,6}\Z",
    }
    text = first.source + "\n"
    return [f"the first cell lacks {what}" for what, form in forms.items() if not re.search(form, text, re.MULTILINE)]


def import_cell(name, notebook, course):
    second, *later = notebook.cells[1:]
    if second.cell_type != "code" or not second.source.startswith("%matplotlib inline\n"):
        return ["the second cell is not the import cell, which begins with '%matplotlib inline'"]
    found = [] if all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in syntax(second).body) else [
        "the import cell does more than import"
    ]  # fmt: skip
    late = [cell for cell in later if cell.cell_type == "code" and imports(cell)]
    return found + [f"an import after the import cell: {cell.source[:60]!r}" for cell in late]


def settings_cell(name, notebook, course):
    sources = [cell.source for cell in code_cells(notebook)]
    if not any("load_characters(" in source for source in sources):
        return []
    holding = [source for source in sources if SETTINGS_LINE in source.splitlines()]
    return [] if len(holding) == 1 else [f"{len(holding)} cells instead of one hold the line {SETTINGS_LINE}"]


def closing_sections(name, notebook, course):
    titles = [title for level, title in headings(notebook) if level == 2]
    found = [] if titles[-3:] == ["What we saw", "Go deeper", "Next"] else [
        f"the last sections are {titles[-3:]}, not What we saw, Go deeper, Next"
    ]  # fmt: skip
    text = sections(notebook)
    if len(re.findall(r"^- ", text.get("What we saw", ""), re.MULTILINE)) < 3:
        found.append("'What we saw' has fewer than three points")
    if not re.search(r"arXiv[: ]\d{4}\.\d{4,5}", text.get("Go deeper", "")):
        found.append("'Go deeper' names no paper with its arXiv number")
    return found


def code_size(name, notebook, course):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    found = [f"a code cell of {length} lines" for length in lengths if length > 30]
    if median(lengths) > 10:
        found.append(f"the median code cell has {median(lengths)} lines")
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    found += [f"a record that a copy elsewhere does not find: {line}" for line in lines if "../results" in line]
    return found + [f"a code line of {len(line)} characters: {line[:60]}..." for line in lines if len(line) > 100]


def figures(name, notebook, course):
    found = [] if "*Predict, then look:*" in whole_text(notebook) else ["nowhere '*Predict, then look:*'"]
    for above, cell in zip([None, *notebook.cells], notebook.cells):
        shown = pictures(cell) if cell.cell_type == "code" else 0
        if shown > 1:
            found.append(f"a code cell with {shown} figures: {cell.source[-60:]!r}")
        if cell.cell_type == "code":
            said = above.source if above.cell_type == "markdown" else ""
            described = FIGURE.findall(said)
            if shown and (len(described) != 1 or len(described[0]) < 40):
                found.append(f"no alternative text (*Figure: ...*, once, 40 characters) above {cell.source[-60:]!r}")
            if described and not shown:
                found.append(f"a figure is described that does not come: {described[0][:60]!r}")
    descriptions = whole_text(notebook).count("*Figure:")
    if descriptions != sum(pictures(cell) > 0 for cell in code_cells(notebook)):
        found.append(f"{descriptions} descriptions of figures, not as many as figures")
    return found


def colours(name, notebook, course):
    return [
        f"pyplot in {cell.source[:60]!r}"
        for cell in code_cells(notebook)
        if re.search(r"\bpyplot\b|\bplt\.", cell.source)
    ]


def anchors(notebook):
    return {title.replace(" ", "-") for _, title in headings(notebook)}


def links(name, notebook, course):
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", whole_text(notebook), flags=re.MULTILINE | re.DOTALL)
    found = []
    for target in re.findall(r"\]\(([^)\s]+)", prose):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        stem = path.removesuffix(".ipynb")
        linked = course.notebooks.get(stem) if path else notebook
        if linked is not None:
            resolved = not anchor or anchor in anchors(linked)
        else:
            resolved = stem in COURSE or (not path.startswith("/") and (FOLDER / path).exists())
        if not resolved:
            found.append(f"the link {target} leads nowhere")
    named = re.findall(
        r"`((?:mamlcourse|benchmarks|results|tests|exercises|solutions)/[\w./-]+\.\w+)`", whole_text(notebook)
    )
    return found + [f"{path} is named and does not exist" for path in named if not (ROOT / path).exists()]


def chain(name, notebook, course):
    names = list(COURSE)
    place = names.index(name)
    said = sections(notebook).get("Next", "")
    neighbours = names[max(place - 1, 0) : place] + names[place + 1 : place + 2]
    wanted = [f"[{COURSE[other]}]({other}.ipynb)" for other in neighbours]
    return [f"'Next' lacks {link}" for link in wanted if link not in said]


def outputs(name, notebook, course):
    return RUNNER["output_complaints"](notebook)


def private_places(name, notebook, course):
    return [
        f"a machine's path in {cell.source[:60]!r}" for cell in notebook.cells if RUNNER["PATH"].search(cell.source)
    ]


def executed(name, notebook, course):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"not run once from top to bottom: {counts}"]


def as_written(name, notebook, course):
    tidied = copy.deepcopy(notebook)
    RUNNER["tidy"](tidied)
    return [] if tidied == notebook else ["not as `make notebooks` writes it: versions, times or widgets are left"]


def file_size(name, notebook, course):
    size = len(nbformat.writes(notebook).encode())
    return [] if size < LARGEST_FILE else [f"{size / 1e6:.1f} MB"]


def run_time(name, notebook, course):
    stated = RUNNER["STATED"].search(notebook.cells[0].source)
    if name not in course.seconds or not stated:
        return ["no run time stated or none measured: run `make notebooks`"]
    stated, seconds = int(stated[2]), course.seconds[name]
    found = [] if seconds <= LONGEST_RUN else [f"{seconds:.0f} seconds to run, {LONGEST_RUN} allowed"]
    # A minimum of 5 is stated, whatever was measured.
    near = seconds / 2 <= stated <= 2 * max(seconds, 2.5)
    return found if near else [*found, f"{stated} seconds stated, {seconds:.0f} measured: run `make notebooks`"]


def compared_output(name, notebook, course):
    marked = [cell for cell in code_cells(notebook) if cell.source.startswith("# NBVAL_CHECK_OUTPUT\n")]
    if not marked:
        return ["no cell begins with '# NBVAL_CHECK_OUTPUT'"]
    return [
        f"nothing to compare, or a figure, in {cell.source[:80]!r}"
        for cell in marked
        if not cell.outputs or pictures(cell)
    ]


def answers(name, notebook, course):
    if name not in SECOND_EDITION:
        return []
    found, waiting, ran = [], False, False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ran = True
            continue
        for mark in re.findall(
            r"\*Predict, then look:\*|<summary>Answer</summary>|^## Test yourself", cell.source, re.M
        ):
            if mark == "## Test yourself":
                return found + ["a prediction without an answer before the self-test"] * waiting
            if mark.startswith("*Predict"):
                found += ["a prediction without an answer before the next one"] * waiting
                waiting, ran = True, False
            elif not waiting:
                found.append(f"an answer to nothing in {cell.source[:60]!r}")
            else:
                found += [f"an answer before the code that shows it, in {cell.source[:60]!r}"] * (not ran)
                waiting = False
    return found


def figure_words(name, notebook, course):
    if name not in SECOND_EDITION:
        return []
    found, waiting = [], False
    for cell in text_cells(notebook):
        if cell.source.count("<details>") != cell.source.count("</details>"):
            found.append(f"<details> is not closed in {cell.source[:60]!r}")
        before, *rest = cell.source.split("*Predict, then look:*")
        waiting = waiting and ANSWER not in before
        if waiting or rest:
            unfolded = FOLDED.sub("", cell.source)
            if "*Figure:" in unfolded:
                found.append(f"a figure is described to a reader who is to predict it: {cell.source[:60]!r}")
        waiting = waiting or bool(rest)
    return found


def your_turn(name, notebook, course):
    if name not in SECOND_EDITION:
        return []
    turns = [place for place, cell in enumerate(notebook.cells) if cell.source.startswith("# Your turn")]
    found = [] if len(turns) >= 2 else [f"{len(turns)} cells begin with '# Your turn', not two or more"]
    for cell, below in ((notebook.cells[place], notebook.cells[place + 1]) for place in turns):
        said = "".join(text for output in cell.outputs for text in RUNNER["texts"](output))
        if "\nlessons." not in cell.source or not said.startswith("Not answered yet"):
            found.append(f"not unanswered, or not checked by `lessons`: {cell.source[:60]!r}")
        if not below.source.startswith(SOLUTION):
            found.append(f"no folded solution below {cell.source[:60]!r}")
    return found


def self_test(name, notebook, course):
    if name not in SECOND_EDITION:
        return []
    titles = [title for level, title in headings(notebook) if level == 2]
    found = [] if titles[-4:-3] == ["Test yourself"] else ["no section 'Test yourself' before 'What we saw'"]
    text = sections(notebook).get("Test yourself", "")
    answered = re.findall(rf"^\*\*(\d)\.\*\* .+\n\n{ANSWER}\n\n.{{20,}}", text, re.MULTILINE)
    return found if answered == list("12345") else [*found, f"questions with answers: {answered}, not 1 to 5"]


def terms(name, notebook, course):
    """Whether each word that the glossary says this lesson introduces stands in it, if only as a label in its code."""
    text = " ".join(" ".join(cell.source for cell in notebook.cells).split()).lower()
    words = course.glossary.get(name, [])
    return [
        f"the glossary names this lesson for {alike}" for alike in words if not any(w.lower() in text for w in alike)
    ]


CHECKS = [
    first_cell, import_cell, settings_cell, closing_sections, code_size, figures, colours, links, chain, outputs,
    private_places, executed, as_written, file_size, run_time, compared_output,
    answers, figure_words, your_turn, self_test, terms,
]  # fmt: skip


# --- The course under the lint. ---


def read_glossary(page):
    """{lesson: the terms that it introduces, each with its other names}."""
    found = {}
    for words, lesson in re.findall(r"^\| (\*\*.+?) \|.*/notebooks/(\w+)\.ipynb\) \|$", page, re.MULTILINE):
        found.setdefault(lesson, []).append(re.findall(r"\*\*(.+?)\*\*", words))
    return found


@lru_cache
def the_course():
    record = read_json(RUNNER["RECORD"]) if RUNNER["RECORD"].exists() else {"seconds": {}}
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))}
    glossary = read_glossary((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    return SimpleNamespace(notebooks=notebooks, seconds=record["seconds"], glossary=glossary)


@pytest.mark.parametrize("name", the_course().notebooks)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_notebook(name, check):
    complaints = check(name, the_course().notebooks[name], the_course())
    assert not complaints, "\n".join(complaints)


def test_all_notebooks_of_the_course_are_there_and_no_other():
    assert list(the_course().notebooks) == list(COURSE)


def test_the_glossary_is_read_whole():
    assert sum(map(len, the_course().glossary.values())) > 40 and set(the_course().glossary) <= set(COURSE)


def test_the_whole_course_runs_within_its_time():
    assert sum(the_course().seconds.values()) <= WHOLE_COURSE


# --- The lint under test: a good notebook, broken in one place, must be complained of. ---


def cell_with(notebook, words):
    return next(cell for cell in notebook.cells if words in cell.source)


def first_figure(notebook):
    """(text cell above, code cell) of the first figure."""
    place = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and pictures(cell))
    return notebook.cells[place - 1], notebook.cells[place]


def replaced(words, old, new):
    def change(notebook):
        cell = cell_with(notebook, words)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def with_output(output):
    return lambda notebook: code_cells(notebook)[0].outputs.append(nbformat.from_dict(output))


def printed(text, stream="stdout"):
    return with_output({"output_type": "stream", "name": stream, "text": text})


def with_code(source):
    return lambda notebook: notebook.cells.insert(3, nbformat.v4.new_code_cell(source))


def all_code(source):
    def change(notebook):
        for cell in code_cells(notebook)[1:]:
            cell.source = source

    return change


def without_alternative_text(notebook):
    above, _ = first_figure(notebook)
    above.source = above.source.replace("*Figure:", "*Picture:")


def short_alternative_text(notebook):
    above, _ = first_figure(notebook)
    above.source = "*Figure: some letters.*"


def alternative_text_further_up(notebook):
    above, cell = first_figure(notebook)
    notebook.cells.insert(notebook.cells.index(cell), nbformat.v4.new_markdown_cell("Look."))


def figure_gone(notebook):
    first_figure(notebook)[1].outputs = []


def two_figures(notebook):
    cell = first_figure(notebook)[1]
    cell.outputs = 2 * cell.outputs


def count_missing(notebook):
    code_cells(notebook)[2].execution_count = None


def count_twice(notebook):
    code_cells(notebook)[2].execution_count = 2


def figure_below_the_mark(notebook):
    _, cell = first_figure(notebook)
    cell.source = "# NBVAL_CHECK_OUTPUT\n" + cell.source


def versions_left(notebook):
    notebook.metadata.language_info.version = "3.11"


def large(notebook):
    first_figure(notebook)[1].outputs[0].data["image/png"] = "A" * LARGEST_FILE


def link(target):
    return replaced("## Go deeper", "## Go deeper", f"## Go deeper\n\n[there]({target})")


def without_first(words, by=""):
    """Take the first occurrence of some words out of the notebook's text."""

    def change(notebook):
        cell = next(cell for cell in notebook.cells if words in cell.source)
        cell.source = cell.source.replace(words, by, 1)

    return change


def answered_before_looking(notebook):
    cell = cell_with(notebook, "*Predict, then look:*")
    cell.source += f"\n\n{ANSWER}\n\nSo.\n\n</details>"


def answered_turn(notebook):
    cell_with(notebook, "# Your turn").outputs[0].text = "Right: yes."


MUTATIONS = [
    (first_cell, replaced("# 01 ", "# 01 ", "# 02 "), "lacks the title"),
    (first_cell, replaced("# 01 ", "?**", ".**"), "lacks the question"),
    (first_cell, replaced("# 01 ", "About 9 minutes", "About nine minutes"), "lacks 'About N minutes"),
    (first_cell, replaced("# 01 ", "You need ", "Needed: "), "lacks 'About N minutes"),
    (first_cell, replaced("# 01 ", "You will", "We do"), "lacks 'You will'"),
    (first_cell, lambda notebook: notebook.cells.pop(0), "is not text"),
    (import_cell, replaced("%matplotlib", "%matplotlib inline\n", ""), "is not the import cell"),
    (import_cell, replaced("%matplotlib", "import os", "import os\nSEED = 0"), "does more than import"),
    (import_cell, with_code("def late():\n    from math import pi\n    return pi"), "an import after"),
    (settings_cell, replaced("DATASET =", "DATASET = os.environ", "DATA = os.environ"), "0 cells instead of one"),
    (settings_cell, with_code(SETTINGS_LINE), "2 cells instead of one"),
    (closing_sections, replaced("## Go deeper", "## Go deeper", "## More"), "the last sections are"),
    (closing_sections, replaced("## What we saw", "\n- ", "\n  "), "fewer than three points"),
    (closing_sections, replaced("arXiv", "arXiv", "archive"), "names no paper"),
    (code_size, with_code("\n".join(["x = 1"] * 31)), "a code cell of 31 lines"),
    (code_size, all_code("\n".join(["x = 1"] * 11)), "the median code cell has 11"),
    (code_size, with_code("x = " + "1" * 97), "a code line of 101 characters"),
    (figures, replaced("Predict, then look", "Predict, then look", "Look"), "nowhere '*Predict"),
    (figures, without_alternative_text, "no alternative text"),
    (figures, short_alternative_text, "no alternative text"),
    (figures, alternative_text_further_up, "no alternative text"),
    (figures, figure_gone, "a figure is described that does not come"),
    (figures, two_figures, "a code cell with 2 figures"),
    (figures, replaced("## Next", "## Next", "## Next\n\n*Figure: one that is not there.*"), "not as many as figures"),
    (colours, with_code("matplotlib.pyplot.plot([1, 2])"), "pyplot in"),
    (colours, with_code("plt.plot([1, 2])"), "pyplot in"),
    (links, link("nowhere.md"), "the link nowhere.md leads nowhere"),
    (links, link("00_start_here.ipynb#No-such-heading"), "leads nowhere"),
    (links, link("#No-such-heading"), "leads nowhere"),
    (links, link("/etc/hosts"), "leads nowhere"),
    (links, replaced("## Go deeper", "## Go deeper", "## Go deeper\n\n`mamlcourse/magic.py`"), "does not exist"),
    (chain, replaced("## Next", "02_gradients", "03_gradients"), "'Next' lacks [02 Gradients"),
    (chain, replaced("## Next", "[00 Start here]", "[Start]"), "'Next' lacks [00 Start here]"),
    (outputs, printed("UserWarning: mind the gap", "stderr"), "cell 1 wrote to stderr"),
    (outputs, with_output({"output_type": "error", "ename": "E", "evalue": "no", "traceback": []}), "cell 1 failed: E"),
    (outputs, printed("saved in /ho" + "me/ada/x.json"), "cell 1 shows a machine's path"),
    (outputs, printed(r"saved in C:\Users\ada"), "cell 1 shows a machine's path"),
    (outputs, printed("10%\r20%"), "cell 1 shows progress debris"),
    (outputs, printed("99.1it/s"), "cell 1 shows progress debris"),
    (outputs, printed("<function f at 0x7f00aa11>"), "cell 1 shows an address"),
    (private_places, with_code("open('/ho" + "me/ada/x.json')"), "a machine's path in"),
    (executed, count_missing, "not run once"),
    (executed, count_twice, "not run once"),
    (as_written, versions_left, "not as `make notebooks` writes it"),
    (file_size, large, "MB"),
    (run_time, replaced("# 01 ", "about 30 seconds", "about 85 seconds"), "85 seconds stated, 40 measured"),
    (run_time, replaced("# 01 ", "about 30 seconds", "about 15 seconds"), "15 seconds stated, 40 measured"),
    (run_time, replaced("# 01 ", "about 30 seconds", "some seconds"), "no run time stated"),
    (compared_output, replaced("NBVAL_CHECK", "# NBVAL_CHECK_OUTPUT\n", ""), "no cell begins with"),
    (compared_output, figure_below_the_mark, "nothing to compare, or a figure"),
    (answers, without_first(ANSWER, "<details><summary>Aha</summary>"), "without an answer before the self-test"),
    (answers, answered_before_looking, "an answer before the code"),
    (answers, without_first("*Predict, then look:*", "*Look:*"), "an answer to nothing"),
    (figure_words, without_first("<details><summary>The figure in words</summary>"), "is not closed"),
    (figure_words, replaced("*Figure:", "<details><summary>The figure in words</summary>", "<b>"), "who is to predict"),
    (your_turn, without_first("# Your turn"), "1 cells begin with"),
    (your_turn, answered_turn, "not unanswered"),
    (your_turn, without_first(SOLUTION), "no folded solution"),
    (self_test, replaced("## Test yourself", "## Test yourself", "## Quiz"), "no section 'Test yourself'"),
    (self_test, replaced("## Test yourself", "**5.**", "5."), "not 1 to 5"),
    (terms, replaced("*Figure:", "chance", "luck"), "names this lesson for ['chance', 'guessing']"),
]  # fmt: skip


def good_notebook():
    """A made-up notebook 01 that follows the template in few cells."""
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    shown = {"image/png": "AAAA", "text/plain": "<Figure size 640x480 with 1 Axes>"}
    turn, solution = "# Your turn.\nx = ...\n\nlessons.x(x)", f"{SOLUTION}\n\n```python\nx = 1\n```\n\n</details>"
    unanswered = [nbformat.v4.new_output("stream", name="stdout", text="Not answered yet: replace the dots.\n")]
    questions = [f"**{n}.** Why?\n\n{ANSWER}\n\nBecause of this and that.\n\n</details>" for n in range(1, 6)]
    cells = [
        text(
            "# 01 Few-shot tasks\n\n**What is a task?**\n\nAbout 9 minutes to read, about 30 seconds to run on two CPU "
            "cores. You need 00.\n\nYou will\n\n- look,\n- think of a\n  longer thing,\n- look again."
        ),
        code("%matplotlib inline\nimport os\n\nfrom mamlcourse import load_characters"),
        text("## Data\n\nLike [there](00_start_here.ipynb#The-data), with [this](../README.md) and [that](#Data)."),
        code(f"{SETTINGS_LINE}\nload_characters(DATASET)"),
        text(
            "*Predict, then look:* what?\n\n<details><summary>The figure in words</summary>\n\n"
            "*Figure: a line of accuracy that rises from chance at step 0.*\n\n</details>"
        ),
        code("figure", outputs=[nbformat.v4.new_output("execute_result", shown, execution_count=3)]),
        text(f"{ANSWER}\n\nIt rises.\n\n</details>\n\nAnd so:"),
        code("# NBVAL_CHECK_OUTPUT\nprint(1)", outputs=[nbformat.v4.new_output("stream", name="stdout", text="1\n")]),
        *(cell for _ in range(2) for cell in (text("Now you."), code(turn, outputs=unanswered), text(solution))),
        text("## Test yourself\n\n" + "\n\n".join(questions)),
        text("## What we saw\n\n- One.\n- Two.\n- Three."),
        text("## Go deeper\n\n- A paper, arXiv 1703.03400.\n- `mamlcourse/algorithms.py`"),
        text("## Next\n\n[02 Gradients through gradients](02_gradients_through_gradients.ipynb), after "
             "[00 Start here](00_start_here.ipynb)."),
    ]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=RUNNER["METADATA"])
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
    return notebook


@pytest.fixture
def small_course():
    start = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 00 Start here\n\n## The data")])
    good = good_notebook()
    row = "| **chance**, **guessing**: 1 / N | | | [01](../notebooks/01_few_shot_tasks.ipynb) |"
    return SimpleNamespace(
        notebooks={"00_start_here": start, "01_few_shot_tasks": good},
        seconds={"01_few_shot_tasks": 40.0},
        glossary=read_glossary(f"| term | symbol | in the papers | lesson |\n{row}\n"),
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_lint_is_content_with_a_good_notebook(check, small_course):
    assert check("01_few_shot_tasks", small_course.notebooks["01_few_shot_tasks"], small_course) == []


@pytest.mark.parametrize(
    "check, change, complaint", MUTATIONS, ids=[f"{check.__name__}-{n}" for n, (check, _, _) in enumerate(MUTATIONS)]
)
def test_the_lint_notices(check, change, complaint, small_course):
    notebook = small_course.notebooks["01_few_shot_tasks"]
    change(notebook)
    complaints = check("01_few_shot_tasks", notebook, small_course)
    assert any(complaint in found for found in complaints), complaints


def test_every_check_is_proved():
    assert {check for check, _, _ in MUTATIONS} == set(CHECKS)


@pytest.mark.parametrize("seconds, complaint", [(91.0, "91 seconds to run, 90 allowed"), (None, "none measured")])
def test_the_lint_notices_times(seconds, complaint, small_course):
    small_course.seconds = {} if seconds is None else {"01_few_shot_tasks": seconds}
    complaints = run_time("01_few_shot_tasks", small_course.notebooks["01_few_shot_tasks"], small_course)
    assert any(complaint in found for found in complaints)


# --- The runner. ---


def run(folder, *sources, first="About 1 minute to read, about 900 seconds to run"):
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    path = folder / "tried.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[text(first), *map(code, sources)]), path)
    before = path.read_bytes()
    _, complaints = RUNNER["execute"](path)
    return path, before, complaints


def test_runner_writes_outputs_the_time_and_nothing_that_varies(tmp_path):
    sources = ["import ipywidgets\nipywidgets.IntSlider()", "import os\nprint(os.environ['MAMLCOURSE_DATASET'])"]
    path, _, complaints = run(tmp_path, *sources)
    notebook = nbformat.read(path, as_version=4)
    assert complaints == [] and notebook.metadata == RUNNER["METADATA"]
    assert [cell.metadata for cell in notebook.cells] == [{}, {}, {}]
    assert [cell.outputs for cell in notebook.cells[1:]] == [
        [], [{"output_type": "stream", "name": "stdout", "text": "glyphs\n"}]
    ]  # fmt: skip
    stated = int(RUNNER["STATED"].search(notebook.cells[0].source)[2])
    assert stated % 5 == 0 and 0 < stated < 900
    assert [RUNNER["rounded"](seconds) for seconds in (0.1, 5.0, 5.1, 38.7)] == [5, 5, 10, 40]


def test_runner_leaves_a_notebook_with_an_error_or_a_warning_as_it_was(tmp_path):
    path, before, complaints = run(tmp_path, "import warnings\nwarnings.warn('mind the gap')", "1 / 0", first="# X")
    assert path.read_bytes() == before
    assert any("cell 1 wrote to stderr" in found and "mind the gap" in found for found in complaints)
    assert "cell 2 failed: ZeroDivisionError: division by zero" in complaints
    assert "cell 0 does not say 'about N seconds to run'" in complaints
