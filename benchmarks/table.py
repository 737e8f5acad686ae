"""The table of docs/performance.md, from `questions.csv` and the last records in `results.json`.

Each row of `questions.csv` is a row of the table: what is measured, the record with the answer, its
names of ours and of what it is compared with, that in words, the command, and the ratio wanted.

    .venv/bin/python benchmarks/table.py
"""

import csv
import pathlib

import rounds as shared

QUESTIONS = pathlib.Path(__file__).with_name("questions.csv")
PAGE = pathlib.Path(__file__).parents[1] / "docs/performance.md"
BEGIN, END = "<!-- by benchmarks/table.py -->\n", "<!-- end of the table -->"
KNOWN_FROM = 130e6
"""A command's peak of fewer bytes is that of the script that started it: see `commands.py`."""

UNITS = {
    "cpu_seconds": "{:.1f} s",
    "seconds_a_volume": "{:.4f} s",
    "slices_a_second": "{:,.0f} slices/s",
    "images_a_second": "{:.1f} images/s",
    "pairs_a_second": "{:,.0f} pairs/s",
    "seconds": "{:.1f} s",
}


def cells(row: dict[str, str]) -> list[str]:
    """What the table says of a question."""
    found = shared.recorded(row["record"])
    asked, by = [row["what"], row["compared_with"]], row["by"]
    by = f"`{by}`" if ".py" in by else by
    if not found:
        return [*asked, "", "", "not measured", row["wanted"], "", by]
    ways = (row["ours"], row["other"])
    unit = next(unit for unit in UNITS if unit in found)
    values = [UNITS[unit].format(found[unit][way]) for way in ways]
    held = [found.get("peak_bytes", {}).get(way, 0) for way in ways]
    if min(held) > KNOWN_FROM:
        pairs = zip(values, held, strict=True)
        values = [f"{value}, {peak / 1e9:.2f} GB" for value, peak in pairs]
    middle, low, high = found["times_as_fast"][row["other"]]
    digits = 2 if middle < 10 else 0
    ratio = f"{middle:.{digits}f}"
    if row["wanted"] and low >= float(row["wanted"]):
        ratio = f"**{ratio}**"
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if found["rounds"] > 1 else ""
    runs = [run for run in found.get("runs", []) if row["other"] in run["times_as_fast"]]
    rounds = f"{len(runs)} runs" if len(runs) > 1 else str(found["rounds"])
    return [*asked, *values, ratio + interval, row["wanted"], rounds, by]


def table() -> str:
    """The whole table, as Markdown."""
    head = ["what", "compared with", "ours", "the other", "other / ours", "wanted", "rounds", "by"]
    with QUESTIONS.open(newline="") as file:
        lines = [head, ["---"] * len(head), *map(cells, csv.DictReader(file))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
