"""`python -m ixi_tfds`: get a folder of volumes to preprocess, the published one or a made one."""

import shlex
import sys
from collections.abc import Sequence

from absl import flags

from ixi_tfds import cli, download, folders, storage, unpack
from ixi_tfds.errors import UserError

USAGE = """
python -m ixi_tfds download --output_dir=S
    Fetch the T1 volumes and the workbook of IXI (4.5 GB; CC BY-SA 3.0,
    https://brain-development.org/ixi-dataset) and unpack them. Takes 9 GB of disk; run it again
    to go on after an interruption.
python -m ixi_tfds cohort --output_dir=S [--subjects=24] [--seed=0]
    Make heads and a workbook of people who do not exist, for trying things out.
"""

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "output_dir", None, "Folder for the volumes and the workbook.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "subjects", 24, "cohort: how many people to make up.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "seed", 0, "cohort: another seed gives other people.", lower_bound=0, flag_values=FLAGS
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv` (the process's by default); returns the exit code."""
    return cli.run(_main, FLAGS, argv, usage=USAGE)


def _main(args: list[str]) -> None:
    commands = {"download": _download, "cohort": _cohort}
    if len(args) != 1 or args[0] not in commands:
        given = f"not {' '.join(args)!r}" if args else "none was given"
        raise UserError(f"give one command, {' or '.join(commands)} ({given}); see --help")
    if not FLAGS.output_dir:
        raise UserError(f"{args[0]} needs --output_dir, the folder to write to")
    storage.check_local(FLAGS.output_dir, "output_dir")
    with folders.writing(FLAGS.output_dir, "output_dir"):
        summary = commands[args[0]](FLAGS.output_dir)
    print(summary)
    print(
        f"next: python -m beam_preprocess --source_dir={shlex.quote(FLAGS.output_dir)} "
        "--data_dir=datasets"
    )


def _download(output_dir: str) -> str:
    for name in ("subjects", "seed"):
        if FLAGS[name].present:
            raise UserError(f"--{name} is a flag of cohort; download takes --output_dir only")
    archive = download.download_ixi(output_dir, sources=download.OFFICIAL_SOURCES)
    volumes = unpack.extract_t1(archive, output_dir)
    return f"{len(volumes)} T1 volumes and the workbook of IXI are in {output_dir}"


def _cohort(output_dir: str) -> str:
    from ixi_tfds import cohort

    cohort.write_cohort(output_dir, subjects=FLAGS.subjects, seed=FLAGS.seed, progress=True)
    return f"{FLAGS.subjects} made-up heads and their workbook are in {output_dir}"


if __name__ == "__main__":
    sys.exit(run())
