"""Reconstructions and anomaly maps of scans: `python -m evaluator reconstruct --help`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np
import tqdm
from etils import epy

from evaluator.models import Model, check_preprocessing, load_model
from evaluator.options import ModelChecks
from ixi_tfds.cohorts import NameFlags, bids
from ixi_tfds.cohorts.bids_filter import BidsFlags, Filter
from ixi_tfds.cohorts.catalog import look
from ixi_tfds.cohorts.names import refusal, stem_of
from ixi_tfds.config import VERSION
from ixi_tfds.system import flags, folders, storage
from ixi_tfds.system.commands import Command, one_line
from ixi_tfds.system.errors import ScanError, UserError
from ixi_tfds.system.flags import flag, like

with epy.lazy_imports():
    from evaluator import volumes
    from evaluator.lesions import maps

USAGE = """
python -m evaluator reconstruct --saved_model=M --input=x.nii.gz --output_dir=O

Reconstructs a T1 scan, or all T1 scans of a folder or BIDS folder, by a model that was exported by
python -m trainer. Scans may have any axes, voxel sizes and data type. O has, on each scan's grid
and in its units,
  x_reconstruction.nii.gz   the model's reconstruction
  x_anomaly.nii.gz          input minus reconstruction: above zero where the input is brighter than
                            the model expects, below zero where it is darker
  x_reconstruction.json     settings, and for each sagittal slice whether it is in the window that
                            the model was trained on; all others are extrapolated
O has the same subfolders as the input. For research only: this is not a medical device.
"""

_SUFFIXES = ("_reconstruction", "_anomaly")
_RESIDUAL = "input minus reconstruction, in the units of the input"


@dataclasses.dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct and where to put it; the fields are the flags."""

    saved_model: str = flag(
        "Folder of the SavedModel: a version folder, or the folder above it, such as "
        "W/export/small_resnet, for the highest version."
    )
    input: str = flag("A .nii or .nii.gz file, or a folder of them, at any depth or BIDS.")
    output_dir: str = flag("Folder for the results.")
    allow_names: bool = like(NameFlags, "allow_names")
    batch_size: int = flag("Slices in a batch.", 16, least=1)
    bids: BidsFlags = dataclasses.field(default_factory=BidsFlags, kw_only=True)
    checks: ModelChecks = dataclasses.field(default_factory=ModelChecks, kw_only=True)

    def __post_init__(self) -> None:
        flags.check(self)
        # nibabel writes to this machine only.
        storage.check_local(self.output_dir, "output_dir")
        for name, path in (("saved_model", self.saved_model), ("input", self.input)):
            if not storage.at(path).exists():
                raise UserError(f"--{name}={path}: no such file or folder")


@dataclasses.dataclass(frozen=True)
class Job:
    """A scan to reconstruct.

    Attributes:
      path: path of the scan.
      folder: folder of the results.
      name: the start of the results' names.
    """

    path: str
    folder: pathlib.Path
    name: str


def find_jobs(
    source: pathlib.Path,
    output_dir: pathlib.Path,
    asked: Filter | None = None,
    *,
    allow_names: bool = False,
) -> list[Job]:
    """The scan `source`, or the scans in that folder, with the places of their results.

    Files named like results of this command are skipped. `asked` is a filter for a BIDS folder;
    `allow_names` takes scans whatever their names say.

    Raises:
      UserError: there is no scan, its name says no plain T1 volume, or two scans would have the
        same result files.
    """
    if not source.is_dir():
        if asked:
            raise UserError(f"--bids_filter: --input={source} is no BIDS folder")
        error = refusal(str(source), allow_names=allow_names)
        if error is not None:
            raise UserError(f"--input={error}; --allow_names takes it nonetheless")
        return [Job(str(source), output_dir, stem_of(str(source)))]
    found = look(str(source), asked, allow_names)
    jobs = [
        Job(path, output_dir / storage.at(path).parent.relative_to(source), stem_of(path))
        for path in found.paths
        if not stem_of(path).endswith(_SUFFIXES)
    ]
    if not jobs:
        raise UserError(f"--input={source}: holds nothing but earlier results of this command")
    first: dict[tuple[pathlib.Path, str], str] = {}
    for job in jobs:
        other = first.setdefault((job.folder, job.name), job.path)
        if other != job.path:
            raise UserError(f"{other} and {job.path}: their results would be the same files")
    if found.refused:
        print(f"passed over by name: {len(found.refused)}, such as {found.refused[0]}")
    for one in found.passed_over:
        print(f"passed over: {one_line(str(one.error))}")
    if asked and "unit1" in asked.get("suffix", ()):
        print(f"warning: {bids.NOISY}", file=sys.stderr)
    return jobs


def reconstruct_scan(
    model: Model, geometry: volumes.Geometry, job: Job, *, batch_size: int
) -> dict[str, Any]:
    """Reconstruct a scan, write its three files and return the content of the JSON.

    Memory holds the volume, both maps and `batch_size` slices. `geometry` is that of training.

    Raises:
      ScanError: the scan is refused, or the model gives values that are not finite.
      OSError: a file cannot be written.
    """
    stack = volumes.open_stack(job.path, geometry)
    shape = stack.volume.voxels.shape
    written = [np.zeros(shape, np.float32) for _ in _SUFFIXES]
    rows = []
    with tqdm.tqdm(
        total=shape[2], unit="slice", desc=job.name, disable=None, leave=False
    ) as progress:
        for first in range(0, shape[2], batch_size):
            last = min(first + batch_size, shape[2])
            slices = volumes.scanner_slices(stack, first, last)
            reconstruction, residual = maps.anomaly_maps(model, slices, stack.limits)
            if not (np.isfinite(reconstruction).all() and np.isfinite(residual).all()):
                raise ScanError(
                    "non_finite",
                    job.path,
                    f"the model gives values that are not finite for slices {first} to {last - 1}",
                )
            for values, slices_out in zip(written, (reconstruction, residual), strict=True):
                values[:, :, first:last] = volumes.from_slices(stack, slices_out)
            rows += [_row(stack, index, plane) for index, plane in enumerate(residual, start=first)]
            progress.update(last - first)
    facts = _facts(model, geometry, stack, job) | {"slices": rows}
    job.folder.mkdir(parents=True, exist_ok=True)
    for suffix, values in zip(_SUFFIXES, written, strict=True):
        volumes.write_map(job.folder / f"{job.name}{suffix}.nii.gz", values, stack.volume)
    text = json.dumps(facts, indent=1) + "\n"
    folders.write_files(job.folder, {f"{job.name}_reconstruction.json": text})
    return facts


def _row(stack: volumes.Stack, index: int, residual: np.ndarray) -> dict[str, Any]:
    _, reverse = volumes.file_axis(stack.volume)
    size = np.abs(residual)
    return {
        "file_index": stack.volume.voxels.shape[2] - 1 - index if reverse else index,
        "in_window": stack.window[0] <= index < stack.window[1],
        "mean_absolute_residual": round(float(size.mean(dtype=np.float64)), 6),
        "largest_absolute_residual": round(float(size.max()), 6),
    }


def _facts(
    model: Model, geometry: volumes.Geometry, stack: volumes.Stack, job: Job
) -> dict[str, Any]:
    """The JSON's content on the scan as a whole."""
    axis, _ = volumes.file_axis(stack.volume)
    return {
        "input": pathlib.Path(job.path).name,
        "model": model.name,
        "model_sha256": model.sha256,
        "anomaly": _RESIDUAL,
        "slice_axis": axis,
        "scaling": geometry.config.scaling,
        "range": stack.limits,
        "pixel_mm": [round(side, 6) for side in stack.volume.zooms[:2]],
        "model_pixel_mm": geometry.zooms and geometry.zooms[:2],
        "resampled": stack.resampled,
        "share_seen": round(float(volumes.field_of_view(stack).mean()), 6),
        "slices_in_window": stack.window[1] - stack.window[0],
    }


def _summary(job: Job, facts: dict[str, Any]) -> str:
    inside = [row["mean_absolute_residual"] for row in facts["slices"] if row["in_window"]]
    return (
        f"{job.folder / job.name}_*: {len(facts['slices'])} slices, {len(inside)} of them in the "
        f"window of training, {'' if facts['resampled'] else 'not '}resampled; mean absolute "
        f"residual in the window {sum(inside) / len(inside):.4g}"
    )


def main(config: ReconstructConfig) -> None:
    """Reconstruct a scan or a folder of scans, and print a line for each.

    Raises:
      UserError: the model or output folder cannot be used; or scans were refused, after all others
        are done.
    """
    with folders.writing(config.output_dir, "output_dir"):
        output_dir = pathlib.Path(config.output_dir)
        jobs = find_jobs(
            storage.at(config.input),
            output_dir,
            config.bids.asked,
            allow_names=config.allow_names,
        )
        model, geometry = _load(config)
        refused = _reconstruct_all(model, geometry, jobs, config.batch_size)
    if refused:
        listed = "; ".join(map(str, refused))
        raise UserError(
            listed if len(jobs) == 1 else f"{len(refused)} of {len(jobs)} scans refused: {listed}"
        )


def _reconstruct_all(
    model: Model, geometry: volumes.Geometry, jobs: list[Job], batch_size: int
) -> list[ScanError]:
    """Reconstruct scans, print a line for each, and return the errors of those refused."""
    refused: list[ScanError] = []
    extrapolated = False
    for job in jobs:
        try:
            facts = reconstruct_scan(model, geometry, job, batch_size=batch_size)
        except ScanError as error:
            refused.append(error)
            continue
        extrapolated |= facts["slices_in_window"] < len(facts["slices"])
        print(_summary(job, facts), flush=True)
    if extrapolated:
        print(
            "warning: slices outside the window of training are extrapolated: the model was not "
            "trained on such slices; see in_window in the *_reconstruction.json files",
            file=sys.stderr,
        )
    return refused


def _load(config: ReconstructConfig) -> tuple[Model, volumes.Geometry]:
    """The model and its geometry, after all checks."""
    checks, saved_model = config.checks, config.saved_model
    model = load_model(storage.at(saved_model), allow_changed_model=checks.allow_changed_model)
    if model.raw is None:
        raise UserError(
            f"--saved_model={saved_model}: has no signature 'raw', which takes scanner units; "
            "export it with python -m trainer"
        )
    geometry = volumes.training_geometry(model.card)
    if model.size != geometry.config.size:
        raise UserError(
            f"--saved_model={saved_model}: takes slices of {model.size[0]}x{model.size[1]}, its "
            f"card tells of {geometry.config.size[0]}x{geometry.config.size[1]}; export it again"
        )
    if geometry.zooms is None:
        print(
            "warning: the model's card does not tell the voxel size of its training data, so scans "
            "are cropped or padded and never resampled",
            file=sys.stderr,
        )
    check_preprocessing(model, config.input, VERSION, allowed=checks.allow_other_preprocessing)
    return model, geometry


COMMAND = Command(
    ReconstructConfig, main, "reconstruct scans: reconstruction and anomaly map as NIfTI", USAGE
)
