"""Write the tables of README.md from benchmarks/*.json: `python scripts/update_readme.py`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`, where NAME is a result file without its suffix.
"""

import json
import re
from pathlib import Path

from core2d.run import atomic_path

ROOT = Path(__file__).resolve().parent.parent


def table(path: Path) -> str:
    """One row for each number of a result file, with its bar."""
    rows = ["| item | number | measured | bar | |", "|---|---|---|---|---|"]
    for name, record in json.loads(path.read_text())["items"].items():
        for number, value in record["numbers"].items():
            bar = record["bars"].get(number)
            if bar is None:
                wanted, verdict = "", ""
            else:
                wanted = f">= {bar['at_least']:g}" if "at_least" in bar else f"<= {bar['at_most']:g}"
                verdict = "met" if bar["passed"] else "**missed**"
            rows.append(f"| {name} | {number} | {value:.4g} | {wanted} | {verdict} |")
    return "\n".join(rows)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    for path in sorted((ROOT / "benchmarks").glob("*.json")):
        marks = re.compile(rf"(<!-- {path.stem} -->\n).*?(<!-- /{path.stem} -->)", re.DOTALL)
        text = marks.sub(lambda found, path=path: f"{found[1]}\n{table(path)}\n\n{found[2]}", text)
    with atomic_path(readme) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
