"""Histograms of the scores of brains by every method, and lesions found by size."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from evaluator.brains import maps, synthetic
from evaluator.brains.ensemble import marking_task
from evaluator.lesions import histograms
from evaluator.lesions.maps import DIRECTIONS
from evaluator.lesions.tallies import LOWEST, Method, Tally
from evaluator.models import Model
from ixi_tfds.config import SliceConfig
from ixi_tfds.images.brain import Brain
from ixi_tfds.images.tissue import HIGHEST
from ixi_tfds.system.errors import ScanError

ROUNDS = 5
"""How often each healthy test brain gets synthetic lesions, each time others."""

SIZES_ML = (0.0, 1.0, 5.0, 20.0, math.inf)
"""Limits of the sizes by which lesions are counted."""

PICTURES = 4
"""Number of brains to show."""

FOUND = 0.1
"""Share of a lesion's voxels above the threshold with which it counts as found."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A brain with its scores.

    Attributes:
      brain: the brain.
      scores: the judged map of each method, by its name, float32 [p, s, r].
      residuals: mean residual of the models of each task, and of each other model, by name.
      lesion: bool [p, s, r].
    """

    brain: Brain
    scores: dict[str, np.ndarray]
    residuals: dict[str, np.ndarray]
    lesion: np.ndarray

    def with_lesion(self, lesion: np.ndarray) -> "Judged":
        """The same with the mask of a lesion."""
        return dataclasses.replace(self, lesion=lesion)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Who scores brains.

    Attributes:
      models: of the ensemble.
      others: models to compare, each by itself.
      mean: of the marks of the ensemble over planes, one of `ensemble.MEANS`.
      baselines: whether the baselines score, too.
    """

    models: tuple[Model, ...]
    others: tuple[Model, ...] = ()
    mean: str = maps.GEOMETRIC
    baselines: bool = True

    def judge(self, brain: Brain, name: str) -> Judged:
        """The scores of a brain by the ensemble, its tasks beside the mark, others, the baselines.

        Raises:
          ScanError: a model's values are not finite; `name` is what the error calls the brain.
        """
        outputs = maps.run((*self.models, *self.others), brain)
        for model, made in outputs.items():
            if not all(np.isfinite(values).all() for values in made.values()):
                raise ScanError("non_finite", name, f"{model} gives values that are not finite")
        tasks = maps.of_models(self.models, outputs, self.mean)
        found = {maps.ENSEMBLE: tasks.pop(marking_task(tasks))} | tasks
        found |= {model.name: maps.signed(outputs[model.name]) for model in self.others}
        if self.baselines:
            found |= maps.of_baselines(brain)
        residuals = {
            task: np.mean([outputs[n]["residual"] for n in names], axis=0)
            for task, names in maps.by_task(self.models).items()
        }
        residuals |= {model.name: outputs[model.name]["residual"] for model in self.others}
        scores = {method: maps.judged(signed, brain) for method, signed in found.items()}
        return Judged(brain, scores, residuals, np.zeros_like(brain.mask))


def of_healthy(
    judge: Judge, brains: Iterable[tuple[str, Brain]]
) -> tuple[dict[Method, Tally], dict[str, float]]:
    """Histograms of healthy brains, and the PSNR in dB of each reconstruction of them.

    The PSNR is that of the voxels of all brains together, whose range is `tissue.HIGHEST`.
    """
    tallies: dict[Method, Tally] = {}
    errors: dict[str, list[float]] = {}
    voxels = 0
    for name, brain in brains:
        found = judge.judge(brain, name)
        add(tallies, name, found.scores, brain.mask, found.lesion)
        voxels += int(brain.mask.sum())
        for task, residual in found.residuals.items():
            errors.setdefault(task, []).append(float(np.square(residual[brain.mask]).sum()))
    quality = {
        task: 10 * math.log10(HIGHEST**2 / max(sum(each) / voxels, 1e-12))
        for task, each in errors.items()
    }
    return tallies, quality


def of_synthetic(
    judge: Judge,
    brains: Iterable[tuple[str, Brain]],
    limits: Mapping[Method, int],
    *,
    seed: int,
    show: Callable[[str, Judged], None],
) -> tuple[dict[Method, Tally], list[dict[str, Any]]]:
    """Histograms of healthy brains with synthetic lesions, and a row for each lesion and method.

    `show` is called for each brain with lesions, named by person and round.
    """
    tallies: dict[Method, Tally] = {}
    rows: list[dict[str, Any]] = []
    for name, brain in brains:
        voxel = math.prod(places.side for places in brain.places) / 1000
        for number in range(ROUNDS):
            ill, lesions = synthetic.add_lesions(brain, name=f"{name} {number}", seed=seed)
            found = judge.judge(ill, name).with_lesion(lesions > 0)
            add(tallies, name, found.scores, ill.mask, found.lesion)
            rows += by_lesion(f"{name} {number}", found.scores, lesions, limits, voxel)
            show(f"{name} {number}", found)
    return tallies, rows


def add(
    tallies: dict[Method, Tally],
    name: str,
    scores: Mapping[str, np.ndarray],
    inside: np.ndarray,
    lesion: np.ndarray,
) -> None:
    """Add the voxels of a brain; lesion voxels outside it count as missed by every method.

    Args:
      tallies: what is added to.
      name: of the person.
      scores: judged maps by method.
      inside: the brain, bool of their shape.
      lesion: bool of their shape.
    """
    marked = lesion[inside]
    missed = np.count_nonzero(lesion & ~inside)
    for method, signed in scores.items():
        for direction, made_of in DIRECTIONS.items():
            values = np.append(made_of(signed[inside]), np.full(missed, LOWEST))
            counts = histograms.count(values, np.append(marked, np.ones(missed, bool)))
            tallies.setdefault((method, direction), Tally()).add(counts, subject=name)


def by_lesion(
    name: str,
    scores: Mapping[str, np.ndarray],
    lesions: np.ndarray,
    limits: Mapping[Method, int],
    voxel_ml: float,
) -> list[dict[str, Any]]:
    """A row for each lesion and method: `subject`, `lesion`, `method`, `ml`, and its share `found`.

    `lesions` has their numbers from 1. What is looked for is any difference.
    """
    numbers = np.arange(1, int(lesions.max()) + 1)
    sizes = ndimage.sum_labels(np.ones_like(lesions), lesions, numbers)
    rows = []
    for method, signed in scores.items():
        above = np.abs(signed) > histograms.upper_edge(limits[method, "either"])
        shares = ndimage.sum_labels(above, lesions, numbers) / np.maximum(sizes, 1)
        rows += [
            {
                "subject": name,
                "lesion": int(number),
                "method": method,
                "ml": float(size * voxel_ml),
                "found": float(share),
            }
            for number, size, share in zip(numbers, sizes, shares, strict=True)
            if size
        ]
    return rows


def false_alarms(
    healthy: Mapping[Method, Tally], limits: Mapping[Method, int], config: SliceConfig
) -> list[dict[str, Any]]:
    """A row for each method: `share` of healthy voxels above the threshold, and their `ml` a head.

    `config` is that of the slices whose voxels were counted.
    """
    voxel = math.prod(config.spacing or ()) / 1000
    rows = []
    for method, tally in healthy.items():
        counts = tally.overall[0]
        above = int(counts[limits[method] + 1 :].sum())
        rows.append(
            {
                "method": method[0],
                "looks_for": method[1],
                "share": above / int(counts.sum()),
                "ml": above * voxel / len(tally.subjects),
            }
        )
    return rows


def by_size(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method and size: number of `lesions`, and the share of them that was found.

    Sizes without a lesion are left out.
    """
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for low, high in itertools.pairwise(SIZES_ML):
            found = [
                row["found"] >= FOUND
                for row in rows
                if row["method"] == method and low <= row["ml"] < high
            ]
            if found:
                size = f"from {low:g} ml" if math.isinf(high) else f"{low:g} to {high:g} ml"
                share = sum(found) / len(found)
                table.append(
                    {"method": method, "size": size, "lesions": len(found), "found": share}
                )
    return table
