"""Reconstructions and anomaly maps of scans: `python -m evaluator reconstruct --help`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

from etils import epy

from evaluator.models import Model, check_preprocessing, load_model
from evaluator.options import ONLY_WITH_ENSEMBLE, ModelChecks, ScanChecks, names_ensemble
from ixi_tfds.cohorts import NameFlags, bids
from ixi_tfds.cohorts.bids_filter import BidsFlags, Filter
from ixi_tfds.cohorts.brain_masks import find_masks
from ixi_tfds.cohorts.catalog import look
from ixi_tfds.cohorts.names import refusal
from ixi_tfds.config import VERSION
from ixi_tfds.content import broken_link
from ixi_tfds.formats import READ_EXTENSIONS, stem_of
from ixi_tfds.system import flags, folders, storage
from ixi_tfds.system.commands import Command, one_line
from ixi_tfds.system.errors import ScanError, UserError
from ixi_tfds.system.flags import flag, like

with epy.lazy_imports():
    import tqdm

    from evaluator import looks, map_files, running, scan_facts, viewer, views, volumes
    from evaluator.brains import ensemble as ensembles
    from evaluator.brains import scans, writing

USAGE = """
python -m evaluator reconstruct --saved_model=M --input=x.nii.gz --output_dir=O

Reconstructs a T1 scan, or all T1 scans of a folder or BIDS folder, by a model that was exported by
python -m trainer. Scans may have any axes, voxel sizes and data type. O has, on each scan's grid
and in its units,
  x_reconstruction.nii.gz   the model's reconstruction
  x_anomaly.nii.gz          the residual: above zero where the input is brighter than the model
                            expects, below zero where it is darker. It is input minus
                            reconstruction, exactly, if the scan is not resampled. Otherwise it is
                            the residual of the resampled slices, brought back to the scan's grid
  x_seen.nii.gz             2 where the model saw the voxel in its window of training, 1 where it
                            saw it beyond that window, 0 where it did not; there both maps are NaN
  x_view.html, x_view.png   scan and anomaly map to look at in a browser, and as a picture
  x_reconstruction.json     settings, the place of the window, and for each sagittal slice of the
                            model whether it is in the window; all others are extrapolated
If M is the folder of an ensemble (python -m evaluator calibrate), the scan's brain is judged as a
whole. The scan is skull-stripped, or --brain_masks has its brain. O then has
  x_mark.nii.gz             how unlike a healthy brain a voxel is, from -1 (darker than
                            expected) to 1 (brighter)
  x_lesions.nii.gz          1 where its absolute value is above the threshold
  x_anomaly.nii.gz          brain minus what the models expect, with white matter at 0.8
  x_reconstruction.nii.gz   what the models expect, in the same unit
  x_seen.nii.gz             2 in the brain that is judged, 1 in its rim, which is not, so that
                            the mark is 0 there; 0 elsewhere, where the maps are NaN
and a view of the mark, and the JSON with what lies above the threshold. O has the same subfolders
as the input. For research only: this is not a medical device.
"""

_SUFFIXES = ("_reconstruction", "_anomaly", "_seen")
_OF_ENSEMBLES = ("_mark", "_lesions")


@dataclasses.dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct and where to put it; the fields are the flags."""

    saved_model: str = flag(
        "Folder of the SavedModel: a version folder, or the folder above it, such as "
        "W/export/small_resnet, for the highest version; or the folder of an ensemble.json.",
        path=True,
    )
    input: str = flag(
        f"A file, or a folder of files at any depth or BIDS: {', '.join(READ_EXTENSIONS)}.",
        path=True,
    )
    output_dir: str = flag("Folder for the results.", path=True)
    brain_masks: str | None = flag(
        "Brain masks for an ensemble, where scans have a skull: a folder, by the scans' names, or "
        "the mask of a single scan.",
        None,
        path=True,
    )
    allow_names: bool = like(NameFlags, "allow_names")
    batch_size: int = flag(
        "Slices in a batch. Not with an ensemble.", 16, least=1, unless=names_ensemble
    )
    view: bool = flag("Write a page and a picture to look at beside the maps of each scan.", True)
    bids: BidsFlags = dataclasses.field(default_factory=BidsFlags, kw_only=True)
    scans: ScanChecks = dataclasses.field(default_factory=ScanChecks, kw_only=True)
    checks: ModelChecks = dataclasses.field(default_factory=ModelChecks, kw_only=True)

    def __post_init__(self) -> None:
        flags.check(self)
        # nibabel writes to this machine only.
        storage.check_local(self.output_dir, "output_dir")
        for name in ("saved_model", "input", "brain_masks"):
            path = getattr(self, name)
            if path is not None and not storage.at(path).exists():
                missing = broken_link(path) or "no such file or folder"
                raise UserError(f"--{name}={path}: {missing}")


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
        if not _is_result(path)
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
    model: Model,
    geometry: volumes.Geometry,
    job: Job,
    *,
    batch_size: int,
    view: bool = False,
    strict: bool = False,
    allow_unknown_orientation: bool = False,
) -> dict[str, Any]:
    """Reconstruct a scan, write its files and return the content of the JSON.

    Without `view`, a view of an earlier run is removed. Memory holds the volume, both maps and all
    slices. `geometry` is that of training. If `strict`, a scan that looks unlike those of training
    is refused.

    Raises:
      ScanError: the scan is refused, or the model gives values that are not finite.
      OSError: a file cannot be written.
    """
    stack = volumes.open_stack(
        job.path, geometry, allow_unknown_orientation=allow_unknown_orientation
    )
    unlike = looks.differences(stack.volume, geometry, job.path, strict=strict)
    reconstruction, residual = running.run_model(model, stack, job.path, batch_size)
    facts = scan_facts.describe(model, geometry, stack, pathlib.Path(job.path).name, unlike)
    facts["slices"] = [
        scan_facts.describe_slice(stack, index, plane) for index, plane in enumerate(residual)
    ]
    written = {
        "reconstruction": volumes.from_slices(stack, reconstruction),
        "anomaly": volumes.from_slices(stack, residual),
        "seen": volumes.seen(stack),
    }
    job.folder.mkdir(parents=True, exist_ok=True)
    viewer.remove_view(job.folder, job.name)
    for name, values in written.items():
        path = job.folder / f"{job.name}_{name}.nii.gz"
        map_files.write_map(path, values, stack.volume)
    if view:
        views.write_view(job.folder, job.name, stack, written["anomaly"], facts)
    text = json.dumps(facts, indent=1) + "\n"
    folders.write_files(job.folder, {f"{job.name}_reconstruction.json": text})
    return facts


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
        if ensembles.is_ensemble(storage.at(config.saved_model)):
            refused = _judge_all(jobs, config)
        else:
            if config.brain_masks:
                raise UserError(f"--brain_masks {ONLY_WITH_ENSEMBLE}")
            model, geometry = _load(config)
            refused = _reconstruct_all(model, geometry, jobs, config)
    if refused:
        listed = "; ".join(map(str, refused))
        raise UserError(
            listed if len(jobs) == 1 else f"{len(refused)} of {len(jobs)} scans refused: {listed}"
        )


def _is_result(path: str) -> bool:
    """Whether a file is an earlier result of this command."""
    stem = stem_of(path)
    name, _, kind = stem.rpartition("_")
    # People's own files may have these names.
    beside = storage.at(path).parent / f"{name}_reconstruction.json"
    return stem.endswith(_SUFFIXES) or (f"_{kind}" in _OF_ENSEMBLES and beside.exists())


def _reconstruct_all(
    model: Model, geometry: volumes.Geometry, jobs: list[Job], config: ReconstructConfig
) -> list[ScanError]:
    """Reconstruct scans, print a line for each, and return the errors of those refused."""
    refused: list[ScanError] = []
    extrapolated = False
    for job in jobs:
        try:
            facts = reconstruct_scan(
                model,
                geometry,
                job,
                batch_size=config.batch_size,
                view=config.view,
                strict=config.scans.strict,
                allow_unknown_orientation=config.scans.allow_unknown_orientation,
            )
        except ScanError as error:
            refused.append(error)
            continue
        extrapolated |= facts["slices_in_window"] < len(facts["slices"])
        print(f"{job.folder / job.name}_*: {scan_facts.summary(facts)}", flush=True)
        for warning in facts["warnings"]:
            print(f"warning: {job.path}: {warning}", file=sys.stderr)
    if extrapolated:
        print(
            "note: slices outside the window of training are extrapolated: the model was not "
            "trained on such slices; see in_window in the *_reconstruction.json files"
        )
    return refused


def _judge_all(jobs: list[Job], config: ReconstructConfig) -> list[ScanError]:
    """Judge scans by an ensemble, print a line for each, and return the errors of those refused."""
    folder = storage.at(config.saved_model)
    ensemble, models = ensembles.read(folder, config.checks, for_mark=True)
    for model in models:
        allowed = config.checks.allow_other_preprocessing
        check_preprocessing(model, config.input, VERSION, allowed=allowed)
    masks = _masks(jobs, config)
    refused: list[ScanError] = []
    for job in tqdm.tqdm(jobs, unit="scan", disable=None, leave=False):
        try:
            scan = scans.open_scan(job.path, masks.get(job.path), ensemble, config.scans)
            facts = writing.write_maps(
                models, ensemble, scan, job.folder, job.name, view=config.view
            )
        except ScanError as error:
            refused.append(error)
            continue
        print(f"{job.folder / job.name}_*: {writing.summary(facts)}", flush=True)
        for warning in facts["warnings"]:
            print(f"warning: {job.path}: {warning}", file=sys.stderr)
    return refused


def _masks(jobs: list[Job], config: ReconstructConfig) -> dict[str, str]:
    """The brain mask of each scan that has one."""
    if config.brain_masks is None:
        return {}
    if storage.at(config.brain_masks).is_file():
        if len(jobs) > 1:
            raise UserError(f"--brain_masks={config.brain_masks}: give a folder for several scans")
        return {jobs[0].path: config.brain_masks}
    source = storage.at(config.input)
    folder = source if source.is_dir() else source.parent
    return find_masks(config.brain_masks, str(folder), [job.path for job in jobs])


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
    if geometry.zooms is None and geometry.config.spacing is None:
        print(
            "warning: the model's card does not tell the voxel size of its training data, so scans "
            "are cropped or padded and never resampled",
            file=sys.stderr,
        )
    looks.check_known(geometry, "the model's card", strict=config.scans.strict)
    check_preprocessing(model, config.input, VERSION, allowed=checks.allow_other_preprocessing)
    return model, geometry


COMMAND = Command(
    ReconstructConfig, main, "reconstruct scans: reconstruction and anomaly map as NIfTI", USAGE
)
