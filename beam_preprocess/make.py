"""The command that makes a dataset: flags in, a published dataset and a summary out."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_preprocess import plan
from beam_preprocess.plan import JobConfig
from ixi_tfds.cohorts.subjects import CONVENTIONS
from ixi_tfds.formats import READ_FORMATS
from ixi_tfds.system.commands import Command, one_line

if TYPE_CHECKING:
    from beam_preprocess.job import Made

_PEOPLE = textwrap.fill(
    f"People are told apart by the names of IXI, {', '.join(one.name for one in CONVENTIONS)} and "
    "nnU-Net, by a folder for each person, or by the file name; the plan, which is printed first, "
    "shows examples. --subjects and --subject_pattern decide instead: see docs/people.md.",
    100,
)
_USAGE = f"""
python -m beam_preprocess --source_dir=S --data_dir=D [--config=thesis] [Beam options]

Makes the TFDS dataset D/<cohort>/<config>/ from the T1 volumes in S (any depth) and the workbook
IXI.xls in S. Formats:
  {READ_FORMATS}
S may also be a BIDS folder of NIfTI volumes with participants.tsv; the first good
sub-*/[ses-*/]anat/*_T1w.nii.gz of each person is used, among those that --bids_filter asks for.
A --config that is not built in names your own geometry:
  --config=heads_2mm --in_plane=120x120 --size=128x128 --slices=30:66
Heads of mixed voxels are resampled, and their slices counted in mm from the middle of the head, by
  --config=all_2mm --spacing=2 --size=128x128 --slices=-36mm:36mm
The configs brain_* keep the brain only, on one scale of tissues, for models that find lesions. They
need --brain_masks or skull-stripped heads: see docs/lesions.md.
{_PEOPLE}
All other options go to Beam. Use two workers on this machine with
  --direct_running_mode=multi_processing --direct_num_workers=2
"""

_WARNINGS_SHOWN = 5


def make(config: JobConfig, arguments: list[str]) -> None:
    """Run the job; `arguments` are the options of Beam."""
    # Beam takes seconds to import; wrong flags should be reported before that.
    slices, dataset_dir = config.slices, config.dataset_dir
    from beam_preprocess import job, runner

    options = runner.beam_options(arguments)
    planned = plan.plan_job(config.source, slices, dataset_dir, strict=config.strict)
    _warn(planned.warnings[:_WARNINGS_SHOWN])
    if len(planned.warnings) > _WARNINGS_SHOWN:
        more = len(planned.warnings) - _WARNINGS_SHOWN
        print(f"warning: and {more} more; quality.html lists all of them", file=sys.stderr)
    counts = planned.planned(slices)
    print(
        f"{slices.name}: {slices.description}\n"
        f"planned subjects {'/'.join(str(n) for n, _ in counts.values())}, "
        f"slices {'/'.join(f'{n:,}' for _, n in counts.values())} ({'/'.join(counts)})"
    )
    print("people told apart " + "\n  and ".join(map(one_line, planned.told_apart)))
    for one in planned.passed_over[:_WARNINGS_SHOWN]:
        print(f"passed over: {one_line(str(one.error))}")
    if len(planned.passed_over) > _WARNINGS_SHOWN:
        more = len(planned.passed_over) - _WARNINGS_SHOWN
        print(f"passed over: and {more} more kinds or folders; rejected.jsonl lists all of them")
    if empty := planned.empty_splits():
        _warn([empty])
    made = job.run_job(config, planned, options)
    _warn(made.warnings)
    print(summary(made))
    print(f"dataset: {dataset_dir}\nquality: {dataset_dir / 'quality.html'}")


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)


def summary(made: Made) -> str:
    """The table that a job ends with: volumes and slices by split, and what was left out."""
    if made.seconds is None:
        return "already made from these inputs and settings; nothing to do"
    manifest = made.manifest
    lines = [f"{'split':<12}{'volumes':>9}{'slices':>9}"]
    for split, counts in (manifest.splits or {}).items():
        lines.append(f"{split:<12}{counts.volumes:>9,}{counts.slices:>9,}")
        for stratum, count in (manifest.strata or {})[split].items():
            lines.append(f"  {stratum:<24}{count:>4,}")
    for kind, reasons in (("rejected", manifest.rejected), ("skipped", manifest.skipped)):
        for reason, count in (reasons or {}).items():
            lines.append(f"{kind + ': ' + reason:<40}{count:>6,}")
    for kind, count in (manifest.passed_over or {}).items():
        lines.append(f"{'passed over: ' + kind:<40}{count:>6,}")
    if manifest.people_lost is not None:
        lines.append(f"{'people of whom all were rejected':<40}{manifest.people_lost:>6,}")
    if manifest.voxels:
        lines.append(f"voxels of the volumes: {manifest.voxels.in_words}")
    lines.append(f"{manifest.bytes:,} bytes in {made.seconds:.1f} s")
    return "\n".join(lines)


COMMAND = Command(JobConfig, make, summary="make a dataset", usage=_USAGE, passes_on=True)
