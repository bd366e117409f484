"""The pages to look things up in: measured parts as the result files have them, code that is code, words that agree."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from mamlcourse.evaluation import RISE
from mamlcourse.settings import RECIPES

ROOT = Path(__file__).parent.parent
FAQ = runpy.run_path(str(ROOT / "tools" / "faq.py"))


def text(name):
    """A page of the book, or of another folder by its path."""
    return (ROOT / "book" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", FAQ["PAGES"], ids=lambda page: page.name)
def test_measured_parts_agree_with_the_result_files(page):
    assert FAQ["filled"](text(page)) == text(page), "run: python tools/faq.py"


def test_every_part_is_on_one_page():
    used = re.findall(r"<!-- measured: (\S+) -->", "".join(text(page) for page in FAQ["PAGES"]))
    assert sorted(used) == sorted(FAQ["PARTS"])


def test_every_claim_of_one_seed_is_undecided():
    alone = [line for line in text("faq.md").splitlines() if "one seed" in line and line.startswith("|")]
    assert len(alone) >= 2 and all(line.endswith("(no interval) percentage points | undecided |") for line in alone)


def test_cheat_sheet_is_of_two_pages_and_its_code_is_python():
    page = text("cheat_sheet.md")
    assert len(page.splitlines()) < 130
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        ast.parse(block)
    assert all(f'`"{name}"`' in page for name in RECIPES)


def test_glossary_names_lessons_that_exist_and_the_package_s_numbers():
    page = text("glossary.md")
    rows = [line for line in page.splitlines() if line.startswith("| **")]
    assert len(rows) > 40 and all(row.count("|") == 5 for row in rows)
    for lesson in re.findall(r"\]\(([^)]+)\)", page):
        assert (ROOT / "book" / lesson).exists(), lesson
    assert f"by more than {RISE}" in page
