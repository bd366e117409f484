"""What teachers use beside the exercises: slides, objectives, and a TEACHERS.md that names what there is."""

import re
from pathlib import Path

import make_slides
import pytest

ROOT = Path(__file__).parent.parent
TEACHERS = (ROOT / "exercises" / "TEACHERS.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reveal(tmp_path_factory):
    """Stands for the npm package, which only `make slides` fetches."""
    folder = tmp_path_factory.mktemp("reveal")
    for name in ("reset.css", "reveal.css", "reveal.js", "plugin/notes.js"):
        (folder / "dist" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "dist" / name).write_text(f"/* {name} */", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def values():
    return make_slides.numbers()


def test_there_are_two_decks_for_an_hour_each():
    assert len(make_slides.DECKS) == 2
    for path in make_slides.DECKS:
        shown = [part.partition("\nNote: ") for part in re.split(r"^---$", path.read_text("utf-8"), flags=re.MULTILINE)]
        assert 10 <= len(shown) <= 16 and sum(bool(note) for _, _, note in shown) >= len(shown) - 1
        for slide, _, _ in shown:  # sparse: code, tables and images aside
            words = re.sub(r"```.*?```|^\|.*$|!\[.*?\]\(.*?\)", "", slide, flags=re.DOTALL | re.MULTILINE).split()
            assert len(words) <= 60, " ".join(words[:8])


def test_every_number_on_a_slide_is_read_from_a_record():
    for path in make_slides.DECKS:
        text = re.sub(r"\{\{.+?\}\}", "", path.read_text(encoding="utf-8"))
        text = re.sub(r"^(Note: .*)$|```.*?```", "", text, flags=re.DOTALL | re.MULTILINE)
        text = text.replace("86 ± 1% and 85 ± 1%", "")  # said to be an example, in the note
        assert not re.search(r"\d\s*%|\d\.\d|±", text), path.name


@pytest.mark.parametrize("path", make_slides.DECKS, ids=lambda path: path.stem)
def test_slides_hold_all_that_they_show(path, reveal, values, monkeypatch):
    monkeypatch.setattr(make_slides, "image", lambda where: f"data:image/png;base64,{where.split(':')[1]}")
    page = make_slides.page(path, reveal, values)
    assert "{{" not in page and page.count("<section>") == page.count("</section>") >= 10
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and not re.search(r"url\((?!data:)", page)
    assert all(re.findall(r'<img src="data:[^"]+" alt="([^"]*)"', page)) and "reset.css" in page


def test_figures_of_slides_exist_and_can_be_drawn():
    named = {name for path in make_slides.DECKS for name in re.findall(r"\]\((\w+:\S+?)\)", path.read_text("utf-8"))}
    assert {f"figure:{name}" for name in make_slides.FIGURES} == {name for name in named if name.startswith("figure")}
    for name in named:
        assert make_slides.image(name).startswith("data:image/png;base64,iVBOR"), name


def test_every_lesson_has_objectives_a_question_and_something_to_watch_for():
    text = (ROOT / "book" / "objectives.md").read_text(encoding="utf-8")
    parts = re.split(r"^## \[.*\]\(\.\./notebooks/(.+)\.ipynb\)$", text, flags=re.MULTILINE)[1:]
    by_lesson = dict(zip(parts[::2], parts[1::2]))
    assert list(by_lesson) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name, part in by_lesson.items():
        assert 3 <= len(re.findall(r"^- ", part, flags=re.MULTILINE)) <= 5, name
        assert "After this lesson you can" in part and "*Ask:*" in part and "*Watch for*" in part, name
    assert "\nobjectives\n" in (ROOT / "book" / "index.md").read_text(encoding="utf-8")


def test_teachers_md_names_targets_files_and_settings_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([\w-]+)", TEACHERS, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    settings = (ROOT / "tools" / "nbgrader_config.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"`(c\.(?:Exchange|CourseDirectory)\.\w+)`", TEACHERS)):
        assert name in settings, name
    for name in set(re.findall(r"classroom\.(\w+)", TEACHERS)):
        assert f"classroom.{name}" in settings, name
    for link in re.findall(r"\]\((\.\./[^)]+)\)", TEACHERS):
        assert (ROOT / "exercises" / link).exists(), link


def test_commands_in_teachers_md_are_nbgraders_own():
    nbgrader = pytest.importorskip("nbgrader.apps.nbgraderapp", reason="the extra [classroom] is not installed")
    known = set(nbgrader.NbGraderApp.subcommands)
    blocks = "".join(re.findall(r"```(.*?)```", TEACHERS, flags=re.DOTALL))
    named = set(re.findall(r"(?<!/)\bnbgrader (\w+) ", blocks))
    assert len(named) > 8 and named <= known
