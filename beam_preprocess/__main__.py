"""Command line of the preprocessing job: flags in, a published dataset and a summary out."""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from beam_preprocess import workers

# Before the imports below, which take as long as it does.
if __name__ == "__main__" and any("multi_processing" in argument for argument in sys.argv):
    workers.get_ready()

from ixi_tfds import cli
from ixi_tfds.configs import CONFIGS, SCALINGS, SliceConfig
from ixi_tfds.errors import UserError

USAGE = """
python -m beam_preprocess --source_dir=S --data_dir=D [--config=thesis|volume_scaled] [Beam options]

Makes the TFDS dataset D/ixi_t1/<config>/ from the NIfTI T1 volumes in S (any depth) and the
workbook IXI.xls beside them; or from a BIDS folder (sub-*/[ses-*/]anat/*_T1w.nii.gz, the first of
each person) and its participants.tsv. Any other --config names a geometry of your own, for example
  --config=heads_2mm --in_plane=120x120 --size=128x128 --slices=30:66
Beam options pass through; two workers on this machine are
  --direct_running_mode=multi_processing --direct_num_workers=2

Another command, with flags of its own (python -m beam_preprocess verify --help):
  verify   is a dataset still what was made, and is nobody in two splits? mends what is damaged
"""

_WARNINGS_SHOWN = 5

FLAGS = flags.FlagValues()


def _text(name: str, default: str | None, text: str, **kwargs: Any) -> flags.FlagHolder:
    return flags.DEFINE_string(name, default, text, flag_values=FLAGS, **kwargs)


_SOURCE_DIR = _text("source_dir", None, "Folder of the volumes.", required=True)
_DATA_DIR = _text("data_dir", None, "Root of the datasets.", required=True)
_CONFIG = _text("config", "thesis", "Name of the config: a known one, or your own's.")
_IN_PLANE = _text("in_plane", None, "Voxels (posterior x superior) a volume must have, or 'any'.")
_SIZE = _text("size", None, "Height x width of stored slices; others are padded or cropped.")
_SLICES = _text("slices", None, "Window of slices FIRST:LAST of the right axis, LAST excluded.")
_SCALING = flags.DEFINE_enum(
    "scaling", None, SCALINGS, "8-bit range by slice or by volume.", flag_values=FLAGS
)
_WORKBOOK = _text("workbook", None, "Demographics; by default IXI.xls in the source folder.")
_VOLUMES_PER_SHARD = flags.DEFINE_integer(
    "volumes_per_shard", 16, "Volumes in a shard.", flag_values=FLAGS
)
_STRICT = flags.DEFINE_bool("strict", False, "Fail at the first refused volume.", flag_values=FLAGS)
_MAX_REJECTED_FRACTION = flags.DEFINE_float(
    "max_rejected_fraction",
    0.05,
    "Publish nothing if more of the volumes are refused.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace a dataset that was made from other inputs.", flag_values=FLAGS
)


def slice_config() -> SliceConfig:
    """The config that the flags name and describe.

    Raises:
      UserError: an unknown name without a geometry, or a geometry under a known name.
    """
    window = _SLICES.value and _pair("slices", _SLICES.value, ":")
    size = _SIZE.value and _pair("size", _SIZE.value, "x")
    in_plane = size
    if _IN_PLANE.value == "any":
        in_plane = None
    elif _IN_PLANE.value:
        in_plane = _pair("in_plane", _IN_PLANE.value, "x")
    given = [f for f in (_SLICES, _SIZE, _IN_PLANE, _SCALING) if f.value is not None]
    name = _CONFIG.value
    if name in CONFIGS:
        if given:
            raise UserError(
                f"--{given[0].name}: the config {name} is fixed; give a geometry of your own "
                "another name with --config"
            )
        return CONFIGS[name]
    if not (window and size):
        raise UserError(
            f"--config={name}: not one of {', '.join(CONFIGS)}; a config of your own needs --slices"
            " and --size"
        )
    return SliceConfig(
        name=name, in_plane=in_plane, size=size, window=window, scaling=_SCALING.value or "slice"
    )


def main(arguments: list[str]) -> None:
    """Run the job; `arguments` are the options of Beam."""
    # Beam takes seconds to import: flags that are wrong should say so at once.
    slices = slice_config()
    from beam_preprocess import job
    from beam_preprocess.pipeline import beam_options

    config = job.JobConfig(
        source_dir=_SOURCE_DIR.value,
        data_dir=_DATA_DIR.value,
        slices=slices,
        workbook=_WORKBOOK.value,
        volumes_per_shard=_VOLUMES_PER_SHARD.value,
        strict=_STRICT.value,
        max_rejected_fraction=_MAX_REJECTED_FRACTION.value,
        overwrite=_OVERWRITE.value,
    )
    options = beam_options(arguments)
    plan = job.plan_job(config)
    for warning in plan.warnings[:_WARNINGS_SHOWN]:
        print(f"warning: {cli.one_line(warning)}", file=sys.stderr)
    if len(plan.warnings) > _WARNINGS_SHOWN:
        more = len(plan.warnings) - _WARNINGS_SHOWN
        print(f"warning: and {more} more, all of them in quality.html", file=sys.stderr)
    planned = plan.planned(slices)
    print(
        f"{slices.name}: {slices.description}\n"
        f"planned subjects {'/'.join(str(n) for n, _ in planned.values())}, "
        f"slices {'/'.join(f'{n:,}' for _, n in planned.values())} ({'/'.join(planned)})"
    )
    manifest = job.run_job(config, plan, options)
    print(summary(manifest))
    print(f"dataset: {config.dataset_dir}\nquality: {config.dataset_dir / 'quality.html'}")


def summary(manifest: dict[str, Any]) -> str:
    """The table at the end of a job."""
    if manifest.get("unchanged"):
        return "already made from these inputs and settings; nothing to do"
    lines = [f"{'split':<12}{'volumes':>9}{'slices':>9}"]
    for split, counts in manifest["splits"].items():
        lines.append(f"{split:<12}{counts['volumes']:>9,}{counts['slices']:>9,}")
        for stratum, count in manifest["strata"][split].items():
            lines.append(f"  {stratum:<24}{count:>4,}")
    for kind in ("rejected", "skipped"):
        for reason, count in manifest[kind].items():
            lines.append(f"{kind + ': ' + reason:<40}{count:>6,}")
    lines.append(f"{manifest['bytes']:,} bytes in {manifest['seconds']:.1f} s")
    return "\n".join(lines)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["verify"]:
        from beam_preprocess import verify

        return verify.run(args[1:])
    return cli.run(main, FLAGS, args, usage=USAGE, pass_unknown=True)


def _pair(flag: str, text: str, separator: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise UserError(f"--{flag}={text}: give two numbers as in 1{separator}2")
    return int(first), int(second)


if __name__ == "__main__":
    sys.exit(run())
