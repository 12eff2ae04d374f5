"""Write the tables of README.md from benchmarks/*.json: `python scripts/update_readme.py`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`, where NAME is a result file without its suffix.
"""

import json
import re

from measure.measure import ROOT, say, table

from core2d.app.outputs import atomic_path


def with_tables(text: str, tables: dict[str, str]) -> str:
    """`text` with each table between its marks; a table that has no marks is left out, and said."""
    for name, rows in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, places = marks.subn(lambda found, rows=rows: f"{found[1]}\n{rows}\n\n{found[2]}", text)
        if not places:
            say(f"README.md has no place for {name}: it would be between <!-- {name} --> and <!-- /{name} -->")
    return text


def main() -> None:
    readme = ROOT / "README.md"
    files = sorted((ROOT / "benchmarks").glob("*.json"))
    tables = {path.stem: table(json.loads(path.read_text())["items"]) for path in files}
    with atomic_path(readme) as temporary:
        temporary.write_text(with_tables(readme.read_text(), tables))


if __name__ == "__main__":
    main()
