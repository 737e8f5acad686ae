"""The table of docs/performance.md, a row a question, from the last records in `results.json`.

    .venv/bin/python benchmarks/table.py

Every number of the table is of one record, so no two rows can say different things of one.
"""

import pathlib
from typing import NamedTuple

import rounds as shared

PAGE = pathlib.Path(__file__).parents[1] / "docs/performance.md"
BEGIN, END = "<!-- by benchmarks/table.py -->\n", "<!-- end of the table -->"
LIMIT = "the limit"
KNOWN_FROM = 130e6


class Row(NamedTuple):
    """A question: what is compared with what, and where the answer is recorded."""

    what: str
    record: str
    ours: str
    other: str
    in_words: str
    script: str
    wanted: float | None = None


REAL = "a volume of IXI (3.9 MB), one core"
MADE = "a made-up volume (11.3 MB), one core"
READ = "batches of 32 slices of 256x256"
AUGMENTED = f"{READ}, with augmentation"
STEP = "a training step of Small, 256x256, batch 8"
BIG = "a training step of Big, 256x256, batch 8"
SCORE = "PSNR and SSIM of 600 pairs of 256x256"
BEFORE = "our code of `be73260`, by CPU time"

COMMANDS = {
    "`evaluator reconstruct` by Small of 2 mm slices, head of 256x256x180": "reconstruct by Small",
    "`evaluator reconstruct` by an ensemble, head of 256x256x150": "reconstruct by the ensemble",
    "`evaluator --robustness --lesions`, 216 slices of 128x128": "scores",
    "`beam_preprocess verify`, 581 volumes (links to 12)": "verify",
}

ROWS = (
    Row(
        REAL,
        "preprocess, thesis, a real volume",
        "ours",
        "thesis",
        "the thesis's way",
        "preprocess.py --real",
        8,
    ),
    Row(REAL, "preprocess, thesis, a real volume", "ours", "limit", LIMIT, "the same", 0.5),
    Row(
        REAL,
        "preprocess, thesis, a real volume",
        "ours",
        "limit, memory kept",
        f"{LIMIT} when glibc keeps freed memory",
        "the same",
        0.5,
    ),
    Row(
        REAL,
        "preprocess, nobrainer, a real volume",
        "ours",
        "nobrainer",
        "nobrainer 1.2.1, compressed as by default",
        "preprocess.py --real --rivals=nobrainer",
    ),
    Row(
        REAL,
        "preprocess, nobrainer, a real volume",
        "ours",
        "nobrainer, not packed",
        "nobrainer 1.2.1, not compressed",
        "the same",
    ),
    Row(MADE, "preprocess, thesis", "ours", "thesis", "the thesis's way", "preprocess.py", 8),
    Row(MADE, "preprocess, thesis", "ours", "limit", LIMIT, "the same", 0.5),
    Row(
        MADE,
        "preprocess, thesis",
        "ours",
        "limit, memory kept",
        f"{LIMIT} when glibc keeps freed memory",
        "the same",
        0.5,
    ),
    Row(
        "581 made-up volumes (60 different ones), two workers, with start-up",
        "cohort of 581, two,one,halves",
        "two",
        "one",
        "one worker",
        "cohort.py",
        1.8,
    ),
    Row(
        "the same",
        "cohort of 581, two,one,halves",
        "two",
        "halves",
        f"{LIMIT}: two independent jobs of half the volumes each, at once",
        "the same",
        0.95,
    ),
    Row(
        "100 made-up volumes, two workers, with start-up",
        "cohort of 100, two,tfds",
        "two",
        "tfds",
        "TFDS's Beam writer, two workers",
        "cohort.py --volumes=100 --ways=two,tfds",
        10,
    ),
    Row(READ, "reading", "ours", "limit", LIMIT, "reading.py --again", 0.7),
    Row(READ, "reading", "ours", "thesis", "Keras's `ImageDataGenerator`", "the same", 10),
    Row(READ, "reading", "ours", "torch", "PyTorch's DataLoader", "the same"),
    Row(
        AUGMENTED,
        "reading, augmented",
        "ours",
        "thesis",
        "`ImageDataGenerator` with imgaug, the thesis's way",
        "reading.py --augmented",
    ),
    Row(
        AUGMENTED,
        "reading, augmented",
        "ours",
        "torch",
        "PyTorch's DataLoader with MONAI",
        "the same",
    ),
    Row(STEP, "step, keras", "ours", "Keras", "Keras `fit` of the same layers", "step.py", 0.95),
    Row(
        STEP,
        "step, pytorch",
        "ours",
        "PyTorch, eager",
        "PyTorch, eager",
        "step.py --rivals=pytorch",
        1,
    ),
    Row(
        STEP,
        "step, pytorch",
        "ours",
        "PyTorch, channels last",
        "PyTorch, channels last",
        "the same",
        1,
    ),
    Row(
        STEP,
        "step, pytorch",
        "ours",
        "PyTorch, compiled",
        "PyTorch, compiled, channels last",
        "the same",
        1,
    ),
    Row(
        f"{STEP}, bfloat16",
        "step, bfloat16",
        "ours, bfloat16",
        "PyTorch, compiled",
        "PyTorch, compiled, float32",
        "step.py --rivals=bfloat16",
        1,
    ),
    Row(
        f"{STEP}, bfloat16",
        "step, bfloat16",
        "ours, bfloat16",
        "PyTorch, bfloat16",
        "PyTorch, compiled, bfloat16",
        "the same",
    ),
    Row(
        BIG,
        "step, pytorch, big_resnet",
        "ours",
        "PyTorch, compiled",
        "PyTorch, compiled, channels last",
        "step.py --rivals=pytorch --model=big_resnet",
        1,
    ),
    Row(
        f"{BIG}, bfloat16",
        "step, bfloat16, big_resnet",
        "ours, bfloat16",
        "PyTorch, bfloat16",
        "PyTorch, compiled, bfloat16",
        "step.py --rivals=bfloat16 --model=big_resnet",
    ),
    Row(
        f"{STEP}, TensorFlow 2.15",
        "step, lane",
        "ours",
        "ours, other lane",
        "the same under TensorFlow 2.21",
        "step.py --rivals=lane",
    ),
    Row(SCORE, "scoring", "ours", "scikit-image", "a scikit-image loop", "scoring.py", 3),
    Row(SCORE, "scoring", "ours", "torchmetrics", "torchmetrics", "the same"),
    *(
        Row(what, f"command, {name}", "now", "before", BEFORE, "by the command under Commands", 1.5)
        for what, name in COMMANDS.items()
    ),
    *(
        Row(
            f"`{command} --help`",
            f"command, {command} --help",
            "now",
            "before",
            BEFORE,
            "commands.py --before=be73260",
            1.5,
        )
        for command in ("ixi_tfds", "beam_preprocess verify", "trainer", "evaluator")
    ),
)

UNITS = {
    "cpu_seconds": "{:.1f} s",
    "seconds_a_volume": "{:.4f} s",
    "slices_a_second": "{:,.0f} slices/s",
    "images_a_second": "{:.1f} images/s",
    "pairs_a_second": "{:,.0f} pairs/s",
    "seconds": "{:.1f} s",
}


def cells(row: Row) -> list[str]:
    """What the table says of a question."""
    found = shared.recorded(row.record)
    script = f"`{row.script}`" if ".py" in row.script else row.script
    if row.other not in found.get("times_as_fast", {}):
        return [row.what, row.in_words, "", "", "not measured", "", "", script]
    unit = next(unit for unit in UNITS if unit in found)
    values = [UNITS[unit].format(found[unit][way]) for way in (row.ours, row.other)]
    held = [found.get("peak_bytes", {}).get(way, 0) for way in (row.ours, row.other)]
    # Less is not known: see commands.py.
    if min(held) > KNOWN_FROM:
        pairs = zip(values, held, strict=True)
        values = [f"{value}, {peak / 1e9:.2f} GB" for value, peak in pairs]
    middle, low, high = found["times_as_fast"][row.other]
    digits = 2 if middle < 10 else 0
    ratio = f"{middle:.{digits}f}"
    if row.wanted and low >= row.wanted:
        ratio = f"**{ratio}**"
    runs = [run for run in found.get("runs", []) if row.other in run["times_as_fast"]]
    rounds = f"{len(runs)} runs" if len(runs) > 1 else found["rounds"]
    wanted = f"{row.wanted:g}" if row.wanted else ""
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if found["rounds"] > 1 else ""
    return [row.what, row.in_words, *values, ratio + interval, wanted, str(rounds), script]


def table() -> str:
    """The whole table, as Markdown."""
    head = ["what", "compared with", "ours", "the other", "other / ours", "wanted", "rounds", "by"]
    lines = [head, ["---"] * len(head), *map(cells, ROWS)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
