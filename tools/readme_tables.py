"""Write the README's tables from the result files that they name: `python tools/readme_tables.py`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # some of them make tables of their own records

import budgets  # noqa: E402
import compiled  # noqa: E402
import peers  # noqa: E402

from mamlcourse import claims  # noqa: E402
from mamlcourse.comparison import caption, claim, legend, markdown, recommendation  # noqa: E402
from mamlcourse.papers import tables  # noqa: E402
from mamlcourse.records import markdown_table, origin, read_json  # noqa: E402
from mamlcourse.styles import title_of  # noqa: E402

TABLE = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)
PEERS = re.compile(r"<!-- peers: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)
COMPILED = re.compile(r"<!-- compiled: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)
BUDGETS = re.compile(r"<!-- budgets -->\n.*?<!-- end of table -->", re.DOTALL)
CLAIMS = re.compile(r"<!-- claims -->\n.*?<!-- end of table -->", re.DOTALL)
PAPERS = re.compile(r"<!-- papers: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)


def filled(text: str) -> str:
    """The text with every marked table made anew from its result file."""

    def table(match):
        record = read_json(ROOT / match[1])
        words = [caption(record), f"{record['hardware']['processor']}.", legend(record), recommendation(record)]
        body = f"{markdown(record)}\n\n{' '.join(filter(None, words))}\n"
        source = f"Measured by `{record['command']}`, raw values in [{match[1]}]({match[1]}).\n"
        return f"<!-- table: {match[1]} -->\n{body}\n{source}<!-- end of table -->"

    def papers_table(match):
        cells = tables.load_results(ROOT / match[1])
        heading, *body = tables.rows(cells)
        measured = [row for row in body if row[3] != tables.NOT_MEASURED]
        pairs = {setting: tables.paired_rows(cells, setting) for setting in dict.fromkeys(row[0] for row in measured)}
        columns = next(iter(pairs.values()))[0]
        together = [[setting, *row] for setting, (_, *rows) in pairs.items() for row in rows]
        body = f"{markdown_table([heading, *measured])}\n\n{tables.caption(cells)}"
        body = f"{body}\n\n{markdown_table([['setting', *columns], *together])}"
        return f"<!-- papers: {match[1]} -->\n{body}\n<!-- end of table -->"

    def peers_table(match):
        record = read_json(ROOT / match[1])
        *_, shares, totals = peers.conclusions(record)
        body = f"{peers.markdown(record)}\n\n{_sentence(totals)} {_sentence(shares)} {origin(record)}"
        return f"<!-- peers: {match[1]} -->\n{body}\n<!-- end of table -->"

    def compiled_table(match):
        record = read_json(ROOT / match[1])
        body = f"{markdown_table([list(compiled.COLUMNS), *compiled.table(record)])}\n\n{origin(record)}"
        return f"<!-- compiled: {match[1]} -->\n{body}\n<!-- end of table -->"

    def budgets_table(match):
        found = by_budget()
        sources = "\n".join(f"- {budget:,} meta-batches: {origin(record)}" for budget, record in found.items())
        body = f"{markdown_table(budgets.by_budget(found))}\n\n{caption(next(iter(found.values())))}\n\n{sources}"
        return f"<!-- budgets -->\n{body}\n<!-- end of table -->"

    def claims_table(match):
        return f"<!-- claims -->\n{markdown_table(claims.table(judged()))}\n<!-- end of table -->"

    text = COMPILED.sub(compiled_table, BUDGETS.sub(budgets_table, CLAIMS.sub(claims_table, text)))
    return PEERS.sub(peers_table, PAPERS.sub(papers_table, TABLE.sub(table, text)))


def by_budget() -> dict[int, dict]:
    """{meta-batches: the record}, of those that were measured."""
    paths = {budget: ROOT / budgets.FOLDER / f"{budget}.json" for budget in budgets.SEEDS}
    return {budget: read_json(path) for budget, path in paths.items() if path.exists()}


def judged() -> list[claims.Claim]:
    """What others say of accuracy, judged by the committed records."""
    began, paper, _ = claims.SOURCES
    names = ("omniglot-200-tasks-original-rates", "equal-search-test")
    original, fair = (read_json(ROOT / "results" / f"{name}.json") for name in names)
    budgeted = by_budget()
    found = []
    for record, rates in ((original, "the original's learning rates"), (fair, "each with the best of eight settings")):
        for one, other, what in (("maml", "fomaml", "MAML is more accurate than FOMAML"),
                                 ("maml++", "maml", "MAML++ is more accurate than MAML")):  # fmt: skip
            found.append(claim(record, one, other, f"{what}, {rates}", began))
    for record in (fair, *budgeted.values()):
        rates = "each with the best of eight settings" if record is fair else "with the same settings"
        for values, what in (("task_accuracies", "is more accurate"), ("task_losses", "has the lower test loss")):
            said = f"MAML++ {what} than its authors' MAML, {rates}"
            found.append(claim(record, "maml++", budgets.BASE, said, paper, values))
    for record in (record for budget, record in budgeted.items() if budget <= budgets.FEW):
        for name in ("+ learned learning rates", "+ multi-step loss throughout", "+ per-step norm"):
            said = f"Adding {title_of(name).removeprefix('+ ')} makes its authors' MAML more accurate"
            found.append(claim(record, name, budgets.BASE, said, paper))
    cells = tables.load_results(ROOT / "results" / "omniglot")
    return found + tables.published_claims(cells) + tables.same_protocol_claims(cells)


def _sentence(words):
    return f"{words[0].upper()}{words[1:]}."


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
