"""Write the README's tables from the result files that they name: `python benchmarks/readme_tables.py`."""

import re
from pathlib import Path

from mamlcourse.comparison import caption, markdown, recommendation
from mamlcourse.records import read_json

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)


def filled(text: str) -> str:
    """The text with every marked table worked out anew from its result file."""

    def table(match):
        record = read_json(ROOT / match[1])
        body = f"{markdown(record)}\n\n{caption(record)} {record['hardware']['processor']}. {recommendation(record)}\n"
        source = f"Measured by `{record['command']}`, raw values in [{match[1]}]({match[1]}).\n"
        return f"<!-- table: {match[1]} -->\n{body}\n{source}<!-- end of table -->"

    return TABLE.sub(table, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
