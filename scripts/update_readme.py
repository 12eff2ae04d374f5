"""Write numbers of README.md and tables of docs/results.md from benchmarks: `python scripts/update_readme.py`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`, where NAME is a result file without its suffix. A number
stands between `<!-- n NAME ITEM NUMBER -->` and `<!-- /n -->`; with `%` after NUMBER it is written as a percentage.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from measure.measure import ROOT, say, table

from core2d.app.outputs import atomic_path

NUMBER = re.compile(r"<!-- n (?P<file>\S+) (?P<item>\S+) (?P<number>\S+)(?P<percent> %)? -->(?:[^<|]*<!-- /n -->)?")


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """`text` with each table between its marks; a table that has no marks is left out, and said."""
    for name, rows in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, places = marks.subn(lambda found, rows=rows: f"{found[1]}\n{rows}\n\n{found[2]}", text)
        if not places:
            say(f"docs/results.md has no place for {name}: it would be between <!-- {name} --> and <!-- /{name} -->")
    return text


def with_numbers(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """`text` with each number after its mark, as it was measured; KeyError for one that was not."""

    def written(mark: re.Match[str]) -> str:
        value = results[mark["file"]][mark["item"]]["numbers"][mark["number"]]
        shown = f"{100 * value:.0f} %" if mark["percent"] else f"{value:.3g}"
        start = mark[0].partition("-->")[0] + "-->"
        return f"{start}{shown}<!-- /n -->"

    return NUMBER.sub(written, text)


def main() -> None:
    files = sorted((ROOT / "benchmarks").glob("*.json"))
    results = {path.stem: json.loads(path.read_text())["items"] for path in files}
    tables = {name: table(items) for name, items in results.items()}
    page, readme = ROOT / "docs" / "results.md", ROOT / "README.md"
    for path, changed in (
        (page, with_tables(page.read_text(), tables)),
        (readme, with_numbers(readme.read_text(), results)),
    ):
        with atomic_path(path) as temporary:
            temporary.write_text(changed)


if __name__ == "__main__":
    main()
