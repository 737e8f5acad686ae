"""Is a dataset still what was made? `python -m beam_preprocess verify --help`."""

import pathlib
from collections.abc import Sequence

from absl import flags

from ixi_tfds import cli, datasets, integrity, leakage, storage
from ixi_tfds.errors import DatasetError, UserError

USAGE = """
python -m beam_preprocess verify --data_dir=D [--config=C] [--repair --source_dir=S]

Reads every byte of the datasets in D, names each file that is damaged, missing, edited or of
another run, and says whether any person or slice stands in two splits and how alike slices of
different splits are. --repair makes the damaged files again, byte for byte, and no others.
"""

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Root of the datasets.", flag_values=FLAGS, required=True)
flags.DEFINE_string("config", None, "Look at ixi_t1/<config> only.", flag_values=FLAGS)
flags.DEFINE_string("dataset", None, "Look at this one only.", flag_values=FLAGS)
flags.DEFINE_bool("repair", False, "Make damaged files again.", flag_values=FLAGS)
flags.DEFINE_string(
    "source_dir", None, "The volumes that the dataset was made from.", flag_values=FLAGS
)
flags.DEFINE_string(
    "workbook", None, "Demographics; by default IXI.xls in the source folder.", flag_values=FLAGS
)

_PAIRS_SHOWN = 3


def verify(folder: pathlib.Path) -> bool:
    """Check a dataset, mend it if that is asked for, and print what was found.

    Returns:
      Whether all is well now.

    Raises:
      UserError: it cannot be mended.
    """
    try:
        manifest = datasets.read_manifest(folder)
    except DatasetError as error:
        print(error)
        return False
    damaged = integrity.find_damage(folder, manifest)
    for damage in damaged:
        print(f"{folder / damage.name}: {damage.what}")
    if "digest" not in manifest:
        print(f"{folder}: of an earlier version, whose manifest cannot be checked itself")
    if damaged and FLAGS.repair:
        from beam_preprocess import repair

        repair.repair(
            folder, manifest, damaged, source_dir=FLAGS.source_dir, workbook=FLAGS.workbook
        )
        damaged = integrity.find_damage(folder, manifest)
        print(f"{folder}: mended" if not damaged else f"{folder}: still damaged")
    if damaged:
        return False
    slices = leakage.read_slices(folder, manifest)
    leaks = leakage.find_leaks(slices)
    for leak in leaks:
        print(f"{folder}: {leak}")
    people = slices.table["subject"].nunique()
    print(
        f"{folder}: {len(manifest['shards'])} shards as they were written, {len(slices.table):,} "
        f"slices of {people} people" + ("" if leaks else ", none of them in two splits")
    )
    _print_nearest(slices)
    return not leaks


def _print_nearest(slices: leakage.Slices) -> None:
    nearest = leakage.nearest_across_splits(slices)
    alike = int((nearest["distance"] < leakage.SUSPICIOUS).sum())
    print(
        f"  slices of two people in different splits that are closer than {leakage.SUSPICIOUS}, as "
        f"copies would be: {alike} pairs of people"
        + ("; are they one person? Closest:" if alike else ". Closest:")
    )
    for row in nearest.head(_PAIRS_SHOWN).itertuples():
        print(f"  {row.distance:.4f}  {row.key} ({row.split}) and {row.other} ({row.other_split})")


def _folders() -> list[pathlib.Path]:
    root = storage.at(FLAGS.data_dir)
    if FLAGS.config and FLAGS.dataset:
        raise UserError("--config and --dataset: give one of them")
    name = FLAGS.dataset or (f"ixi_t1/{FLAGS.config}" if FLAGS.config else "*/*")
    # By either file: the other may be what is lost.
    found = {
        path.parent
        for file in ("manifest.json", "dataset_info.json")
        for path in root.glob(f"{name}/[0-9]*.[0-9]*.[0-9]*/{file}")
    }
    if not found:
        raise DatasetError(f"--data_dir={root}: has no dataset {name.replace('*/*', 'at all')}")
    return sorted(found)


def _main(rest: list[str]) -> None:
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: everything is given by flags")
    bad = [folder for folder in _folders() if not verify(folder)]
    if bad:
        raise DatasetError(
            f"{', '.join(map(str, bad))}: not as it should be, for the reasons above"
            + ("" if FLAGS.repair else "; --repair --source_dir=S mends damaged files")
        )


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, the process's own by default; returns the exit code."""
    return cli.run(_main, FLAGS, argv, usage=USAGE)
