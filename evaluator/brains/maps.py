"""Maps of a brain by models and baselines: how far each voxel is from what is expected there.

All maps are float32 [p, s, r] on the grid of a `Brain`, above zero where the brain is brighter than
expected and below where it is darker, from -1 to 1. They all go through `judged`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from evaluator.brains.ensemble import MEANS, plane_of, slices_of, task_of
from evaluator.lesions.maps import BLURRED, INTENSITY
from evaluator.models import Model
from ixi_tfds.images.brain import Brain
from ixi_tfds.images.tissue import HIGHEST

ENSEMBLE = "ensemble"
GEOMETRIC = MEANS[1]
RIM_MM = 4.0
"""Depth of the mask's rim, where masks and partial volumes err; scores are 0 there."""

BLUR_MM = 4.0
"""Sigma of the blurred input."""

MEDIAN = 5
"""Side in voxels of the cube whose median smooths all scores: noise is smaller than lesions."""

_NEARBY = 5  # voxels


def judged(signed: np.ndarray, brain: Brain) -> np.ndarray:
    """The score of a map: median of `MEDIAN` voxels a side, 0 in the mask's rim and outside."""
    smooth = ndimage.median_filter(signed, size=MEDIAN)
    return np.where(inner(brain), smooth, 0).astype(np.float32)


def inner(brain: Brain) -> np.ndarray:
    """The mask without its rim, bool [p, s, r]."""
    side = max(places.side for places in brain.places)
    rounds = max(1, round(RIM_MM / side))
    return np.asarray(ndimage.binary_erosion(brain.mask, iterations=rounds))


def run(models: Sequence[Model], brain: Brain) -> dict[str, dict[str, np.ndarray]]:
    """The outputs of each model's signature `volume` for a brain, by the model's name."""
    inputs = {"volume": brain.values, "mask": brain.mask.astype(np.float32)}
    assert all(model.volume for model in models)
    return {
        model.name: {name: np.asarray(values) for name, values in model.volume(**inputs).items()}
        for model in models
        if model.volume
    }


def signed(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """A model's map: its mark with the sign of its residual, or the residual if it has no mark.

    The sign is that of the mean residual nearby: where it is near zero, it says nothing.
    """
    residual = outputs["residual"]
    if "mark" not in outputs:
        return residual / HIGHEST
    return outputs["mark"] * np.sign(ndimage.uniform_filter(residual, _NEARBY))


def of_models(
    models: Sequence[Model], outputs: Mapping[str, dict[str, np.ndarray]], mean: str
) -> dict[str, np.ndarray]:
    """The map of each task, joined from its models, by the task's name.

    Residuals are averaged. Marks are averaged over the models of a plane, and then over planes by
    `mean`, one of `ensemble.MEANS`: the geometric one is low where a single plane sees nothing.
    """
    joined = {}
    for task, names in by_task(models).items():
        residual = np.mean([outputs[name]["residual"] for name in names], axis=0)
        joined[task] = {"residual": residual}
        if "mark" in outputs[names[0]]:
            planes: dict[str, list[np.ndarray]] = {}
            for model in models:
                if model.name in names:
                    plane = plane_of(slices_of(model)) if mean == GEOMETRIC else ""
                    planes.setdefault(plane, []).append(outputs[model.name]["mark"])
            marks = [np.mean(each, axis=0) for each in planes.values()]
            joined[task]["mark"] = np.prod(marks, axis=0) ** np.float32(1 / len(marks))
    return {task: signed(each) for task, each in joined.items()}


def by_task(models: Sequence[Model]) -> dict[str, list[str]]:
    """The names of the models that learned each task, by the task's name."""
    tasks: dict[str, list[str]] = {}
    for model in models:
        tasks.setdefault(task_of(model), []).append(model.name)
    return tasks


def of_baselines(brain: Brain) -> dict[str, np.ndarray]:
    """The maps of the baselines, by name: against a blurred copy, and against the median."""
    sigma = [BLUR_MM / places.side for places in brain.places]
    mask = brain.mask.astype(np.float32)
    share = ndimage.gaussian_filter(mask, sigma)
    blurred = ndimage.gaussian_filter(brain.values * mask, sigma) / np.maximum(share, 1e-3)
    middle = np.median(brain.values[brain.mask])
    return {
        BLURRED: np.where(brain.mask, brain.values - blurred, 0) / HIGHEST,
        INTENSITY: np.where(brain.mask, brain.values - middle, 0) / HIGHEST,
    }
