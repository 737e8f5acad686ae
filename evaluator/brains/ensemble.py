"""Several models of brains as one: `ensemble.json`, which lies beside them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

from evaluator.models import Model, check_files, load_models, version_folder
from evaluator.options import ModelChecks
from ixi_tfds.config import PLANES, SliceConfig, in_words
from ixi_tfds.documents import codec
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.files import write_text

NAME = "ensemble.json"
MEANS = ("arithmetic", "geometric")
"""Means of marks over planes. Files of earlier versions name none: theirs is the first."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of an ensemble.

    Attributes:
      path: of its version folder, from the folder of the file.
      digest: of its graph and variables.
      task: what it learned.
      plane: of its slices.
    """

    path: str
    digest: str
    task: str
    plane: str


@dataclasses.dataclass(frozen=True)
class Healthy:
    """Scores of healthy brains that no model learned from.

    Attributes:
      dataset: where they come from, such as `ixi_t1/brain_2mm_axial`.
      fingerprint: of that dataset.
      heads: their number.
      percentiles: scores by percentile, such as "99.5".
      share: of the voxels of a head that lie above the threshold of the other heads, the mean.
      ml: of such voxels in a head, the mean.
    """

    dataset: str
    fingerprint: str | None
    heads: int
    percentiles: dict[str, float]
    share: float
    ml: float


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The content of `ensemble.json`.

    Attributes:
      members: the models.
      slices: config of the slices of one of them; its spacing and box are those of all.
      tissues: medians of cerebrospinal fluid, grey and white matter of the training brains, to
        which those of a scan are brought.
      percentile: of healthy scores, at which the threshold lies.
      threshold: a voxel whose score lies above it counts as lesion.
      healthy: what the threshold was found on.
      mean: of the marks over planes, one of `MEANS`.
    """

    members: tuple[Member, ...]
    slices: SliceConfig
    tissues: tuple[float, float, float]
    percentile: float
    threshold: float
    healthy: Healthy
    mean: str = MEANS[0]


def task_of(model: Model) -> str:
    """What a model learned."""
    return str(model.card.flags.get("task", "reconstruct"))


def marking_task(tasks: Iterable[str]) -> str:
    """The task whose models make the mark of an ensemble: repair if it is among them."""
    first, *others = tasks
    return "repair" if "repair" in others else first


def slices_of(model: Model) -> SliceConfig:
    """The config of the slices that a model of brains learned from.

    Raises:
      UserError: it is no model of brains.
    """
    configs = [facts.slices for facts in model.card.datasets.values() if facts.slices]
    if model.volume is None or not configs or configs[0].scaling != "tissue":
        raise UserError(
            f"--saved_model={model.folder}: is no model of brains: it has no signature 'volume', "
            "or no card that tells of its slices; train one on a dataset such as "
            "ixi_t1/brain_2mm_axial"
        )
    return configs[0]


def plane_of(config: SliceConfig) -> str:
    """The plane of the slices of a config."""
    return config.plane or PLANES[0]


def check_same_space(models: Sequence[Model]) -> SliceConfig:
    """The config of the slices of the first model, whose box and spacing all must have.

    Raises:
      UserError: they differ, or a model is no model of brains.
    """
    configs = [slices_of(model) for model in models]
    for model, config in zip(models, configs, strict=True):
        if (config.box, config.spacing) != (configs[0].box, configs[0].spacing):
            raise UserError(
                f"--saved_model={model.folder}: takes brains in a box of {in_words(config.box)} "
                f"voxels of {in_words(config.spacing or ())} mm, the first model in one of "
                f"{in_words(configs[0].box)} voxels of {in_words(configs[0].spacing or ())} mm; "
                "an ensemble needs the same"
            )
    return configs[0]


def check_fits(config: SliceConfig, wanted: SliceConfig, dataset: str) -> None:
    """Check that a dataset has brains in the space of models.

    Raises:
      UserError: it has none, or other ones.
    """
    if (config.scaling, config.box, config.spacing) != ("tissue", wanted.box, wanted.spacing):
        raise UserError(
            f"--dataset={dataset}: has {config.description}; the models need brains in a box of "
            f"{in_words(wanted.box)} voxels of {in_words(wanted.spacing or ())} mm, such as "
            f"ixi_t1/{wanted.name}"
        )


def is_ensemble(path: pathlib.Path) -> bool:
    """Whether a folder holds an `ensemble.json`."""
    return (path / NAME).is_file()


def read(
    folder: pathlib.Path, checks: ModelChecks, *, for_mark: bool = False
) -> tuple[Ensemble, list[Model]]:
    """The ensemble in a folder, and its models.

    With `for_mark` only the models that make the mark are loaded. The files of the others are
    compared with their digests all the same.

    Raises:
      UserError: the file cannot be read, or a model is missing or not the one that it names.
    """
    path = folder / NAME
    try:
        ensemble = codec.from_json(Ensemble, path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"{path}: is not the file of an ensemble: {error}") from error
    if ensemble.mean not in MEANS:
        raise UserError(
            f"{path}: names the mean {ensemble.mean!r}, known are {' and '.join(MEANS)}; perhaps a "
            "later version of this package wrote it"
        )
    allowed = checks.allow_changed_model
    marking = marking_task(member.task for member in ensemble.members)
    wanted = [each for each in ensemble.members if each.task == marking or not for_mark]
    beside = [each for each in ensemble.members if each not in wanted]
    models = load_models(
        [folder / member.path for member in wanted],
        allow_changed_model=allowed,
        beside=[folder / member.path for member in beside],
    )
    found = [(model.folder, model.sha256) for model in models]
    for place in (version_folder(folder / member.path) for member in beside):
        found.append((place, check_files(place, allow_changed_model=allowed)[0]))
    for member, (place, digest) in zip([*wanted, *beside], found, strict=True):
        if digest != member.digest and not allowed:
            raise UserError(
                f"{place}: has the digest {digest[:12]}, {path} names {member.digest[:12]}; make "
                "the file again with python -m evaluator calibrate"
            )
    check_same_space(models)
    return ensemble, models


def members_of(folder: pathlib.Path, models: Sequence[Model]) -> tuple[Member, ...]:
    """Models as members of an ensemble whose file is in a folder."""
    return tuple(
        Member(
            pathlib.Path(os.path.relpath(model.folder, folder.resolve())).as_posix(),
            model.sha256,
            task_of(model),
            plane_of(slices_of(model)),
        )
        for model in models
    )


def write(folder: pathlib.Path, ensemble: Ensemble) -> None:
    """Write `ensemble.json`."""
    write_text(folder / NAME, json.dumps(codec.to_plain(ensemble), indent=1) + "\n")
