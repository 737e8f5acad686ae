"""Histograms of the scores of splits and volumes, whose memory does not grow with their number."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from evaluator import looks, scan_facts, volumes
from evaluator.lesions import histograms, maps, synthetic
from evaluator.lesions.examples import Example, example_of, most_lesion
from evaluator.lesions.pairs import Pair, open_pair
from evaluator.models import Model
from evaluator.options import ScanChecks
from evaluator.scoring import Split, batch_keys, read_batches
from ixi_tfds.features import slice_key
from ixi_tfds.images.scaling import quantize, to_unit
from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError

Method = tuple[str, str]
"""Name of a model or baseline, and one of `anomaly.DIRECTIONS`."""

INSIDE, BEYOND = "inside the window of training", "beyond the window of training"
"""Groups of the voxels of volumes."""

EXAMPLES = 4
"""Number of slices to show."""

LOWEST = -1.0
"""Score of lesion voxels that the model does not see: below any threshold."""

HEADS = "the dataset's heads"
"""What volumes are compared with, in words."""

View = Callable[[str, volumes.Stack, np.ndarray, np.ndarray, dict[str, Any]], None]
"""Function that shows a volume: its subject, the volume, the first model's anomaly map and the mask
on the volume's grid, and what `scan_facts` says of it."""


@dataclasses.dataclass
class Tally:
    """Histograms of one method, int32 [2, BINS], as `histograms.count` gives them.

    Attributes:
      subjects: histogram of each subject.
      groups: histogram of each group of pixels, such as those of slices with one kind of lesion.
    """

    subjects: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def add(self, counts: np.ndarray, *, subject: str, group: str = "") -> None:
        """Add the counts of some of a subject's pixels, all of one group, or of none."""
        for table, name in ((self.subjects, subject), (self.groups, group)):
            if name:
                table[name] = table[name] + counts if name in table else counts

    @property
    def overall(self) -> np.ndarray:
        """All pixels together, int64."""
        return np.stack(list(self.subjects.values())).sum(axis=0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class Found:
    """The scores of a split or of volumes.

    Attributes:
      tallies: histograms of each method over pixels inside the head.
      facts: numbers of slices and lesions, for the report.
      examples: at most `EXAMPLES` slices to show.
      scans: what `scan_facts.describe` says of each subject's volume; empty for a split.
    """

    tallies: dict[Method, Tally]
    facts: dict[str, Any]
    examples: list[Example]
    scans: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """How slices are scored.

    Attributes:
      models: models to compare.
      batch_size: slices in a batch.
      blur_sigma: sigma of the blurred input, in pixels.
      smooth_sigma: sigma of a Gaussian over the scores, in pixels; 0 for none.
      inner: whether only pixels in `maps.inner_head` count, rather than all of the head.
    """

    models: Sequence[Model]
    batch_size: int
    blur_sigma: float
    smooth_sigma: float
    inner: bool

    def references(
        self, images: np.ndarray, keys: Sequence[str], expected: Callable[[Model, slice], Any]
    ) -> dict[str, np.ndarray]:
        """Reconstructions of slices by every model, and the blurred input, float32 [N, H, W].

        Args:
          images: float32 [N, H, W] in units of the slice's range.
          keys: names of the slices.
          expected: function that gives a model's reconstructions of some of the slices, [n, H, W].
        """
        found = {}
        for model in self.models:
            parts = [
                expected(model, slice(first, first + self.batch_size))
                for first in range(0, len(images), self.batch_size)
            ]
            found[model.name] = np.concatenate(parts).astype(np.float32)
            finite = np.isfinite(found[model.name]).all(axis=(1, 2))
            if not finite.all():
                key = keys[int(np.argmin(finite))]
                raise UserError(f"{model.name} gives values that are not finite for slice {key}")
        return found | {maps.BLURRED: maps.blur(images, self.blur_sigma)}


def tally_split(scorer: Scorer, split: Split, *, seed: int | None) -> Found:
    """Score the slices of a split of healthy people.

    Slices are grouped by kind of lesion. `seed` is that of the synthetic lesions; None leaves the
    slices healthy.

    Raises:
      UserError: a model gives values that are not finite.
    """
    tallies: dict[Method, Tally] = {}
    facts = {"slices": 0, "slices_with_lesion": 0}
    shown: dict[float, tuple[str, Example]] = {}
    progress = tqdm.tqdm(total=split.slices, unit="slice", desc=split.name, disable=None)
    for batch in read_batches(split, scorer.batch_size):
        images = to_unit(batch["image"].numpy()[..., 0])
        subjects = [name.decode() for name in batch["subject"].numpy()]
        keys = batch_keys(batch)
        heads = np.stack([maps.head_mask(image) for image in images])
        inner = np.stack([maps.inner_head(head) for head in heads])
        region = inner if scorer.inner else heads
        masks, kinds = _add_lesions(images, inner, keys, seed)
        references = scorer.references(images, keys, functools.partial(_in_unit, images))
        for method, scores in maps.score_maps(
            images, heads, references, smooth_sigma=scorer.smooth_sigma
        ):
            tally = tallies.setdefault(method, Tally())
            for place, (subject, kind) in enumerate(zip(subjects, kinds, strict=True)):
                here = region[place]
                counts = histograms.count(scores[place][here], masks[place][here])
                tally.add(counts, subject=subject, group=str(kind or "no lesion"))
        for place, (key, kind) in enumerate(zip(keys, kinds, strict=True)):
            if kind is None or kind.radius != synthetic.RADII[1]:
                continue
            # The first by name of each contrast, so that neither order nor batches matter.
            if kind.contrast not in shown or key < shown[kind.contrast][0]:
                example = example_of(f"{key}: {kind}", place, images, masks, references)
                shown[kind.contrast] = key, example
        facts["slices"] += len(keys)
        facts["slices_with_lesion"] += sum(kind is not None for kind in kinds)
        progress.update(len(keys))
    progress.close()
    examples = [shown[contrast][1] for contrast in sorted(shown)][:EXAMPLES]
    return Found(tallies, facts, examples)


def _add_lesions(
    images: np.ndarray, room: np.ndarray, keys: Sequence[str], seed: int | None
) -> tuple[np.ndarray, list[synthetic.Kind | None]]:
    """Put a lesion into each slice, in place, if there is a seed; gives masks and kinds."""
    masks = np.zeros(images.shape, bool)
    kinds: list[synthetic.Kind | None] = [None] * len(keys)
    if seed is not None:
        for place, key in enumerate(keys):
            images[place], masks[place], kinds[place] = synthetic.add_lesion(
                images[place], room[place], key=key, seed=seed
            )
    return masks, kinds


def _in_unit(images: np.ndarray, model: Model, part: slice) -> np.ndarray:
    return np.asarray(model.reconstruct(images[part][..., None]))[..., 0]


def tally_volumes(
    scorer: Scorer,
    pairs: Sequence[Pair],
    geometry: volumes.Geometry,
    checks: ScanChecks,
    *,
    view: View | None = None,
) -> Found:
    """Score the voxels of volumes on their own grids, in all slices that show some of the head.

    A model's score is the map that `python -m evaluator reconstruct` writes, in units of the range
    (see `maps.anomaly_maps`). Masks are not resampled. Voxels count if they are in the head and
    in the model's field of view, in the groups `INSIDE` and `BEYOND`. Lesion voxels that the model
    does not see count as missed by every method: they have the lowest score. `view` is called for
    each volume.

    Raises:
      UserError: a volume or its mask cannot be used, a model gives values that are not finite, or
        a volume looks unlike those of the dataset and `checks` are strict.
    """
    tallies: dict[Method, Tally] = {}
    scans: dict[str, dict[str, Any]] = {}
    counted_voxels = ("lesion_voxels", "lesion_voxels_scored", "lesion_voxels_unseen")
    facts: dict[str, Any] = {"volumes": len(pairs), **dict.fromkeys(counted_voxels, 0)}
    examples: list[Example] = []
    wanted = max(1, EXAMPLES // len(pairs))
    for pair in tqdm.tqdm(pairs, unit="volume", disable=None):
        subject, path = pair.scan.subject, pair.scan.path
        stack, lesion = open_pair(pair, geometry, checks)
        unlike = looks.differences(stack.volume, geometry, path, strict=checks.strict, heads=HEADS)
        scans[subject] = scan_facts.describe(
            scorer.models[0], geometry, stack, storage.at(path).name, unlike, heads=HEADS
        )
        mask = lesion.transpose(2, 0, 1)
        unseen = mask & (volumes.seen(stack).transpose(2, 0, 1) == 0)
        counted, scored, shown, residual = _score_volume(scorer, stack, subject, mask, wanted)
        facts["lesion_voxels"] += int(mask.sum())
        facts["lesion_voxels_scored"] += int(mask[counted].sum())
        facts["lesion_voxels_unseen"] += int(unseen.sum())
        for method, scores in scored:
            tally = tallies.setdefault(method, Tally())
            _add_volume(tally, stack, subject, scores, counted=counted, mask=mask, unseen=unseen)
        examples += shown
        if view is not None:
            view(subject, stack, volumes.from_slices(stack, residual), lesion, scans[subject])
    return Found(tallies, facts, examples[:EXAMPLES], scans)


def _add_volume(
    tally: Tally,
    stack: volumes.Stack,
    subject: str,
    scores: np.ndarray,
    *,
    counted: np.ndarray,
    mask: np.ndarray,
    unseen: np.ndarray,
) -> None:
    """Add one method's scores of a volume's planes that have voxels which count."""
    planes = counted.any(axis=(1, 2))
    inside = volumes.planes_in_window(stack)
    groups = {INSIDE: inside, BEYOND: ~inside}
    for group, part in groups.items():
        here = counted & part[:, None, None]
        missed = np.count_nonzero(unseen[part])
        values = np.append(scores[here[planes]], np.full(missed, LOWEST))
        counts = histograms.count(values, np.append(mask[here], np.ones(missed, bool)))
        tally.add(counts, subject=subject, group=group)


def _score_volume(
    scorer: Scorer, stack: volumes.Stack, subject: str, mask: np.ndarray, wanted: int
) -> tuple[np.ndarray, Iterator[tuple[Method, np.ndarray]], list[Example], np.ndarray]:
    """Score a volume in all slices that show some of its head.

    Args:
      scorer: how to score.
      stack: the volume.
      subject: whose it is.
      mask: its lesions, bool [right, posterior, superior].
      wanted: number of slices to show.

    Returns:
      Which voxels count, bool [right, posterior, superior]; scores by method, float64 [planes,
      posterior, superior] of the planes with such voxels; slices to show; and the residual of the
      first model in all slices, in scanner units.
    """
    slices = volumes.scanner_slices(stack, 0, stack.slices.n)
    stored = to_unit(quantize(slices, *maps.ranges(slices, stack.limits)))
    heads = np.stack([maps.head_mask(image) for image in stored])
    used = np.flatnonzero(heads.any(axis=(1, 2)))
    keys = [slice_key(subject, index) for index in range(stack.slices.n)]
    images, references = _in_range(scorer, slices, stack.limits, keys)
    residual = images - references[scorer.models[0].name]
    residual *= np.subtract(*maps.ranges(slices, stack.limits)[::-1])
    images, references = images[used], {name: each[used] for name, each in references.items()}
    region = np.stack([maps.inner_head(head) for head in heads]) if scorer.inner else heads
    counted = _on_grid(stack, region) >= 0.5
    planes = np.flatnonzero(counted.any(axis=(1, 2)))
    scores = maps.score_maps(
        _on_grid(stack, images, used, planes),
        _on_grid(stack, heads)[planes] >= 0.5,
        {name: _on_grid(stack, each, used, planes) for name, each in references.items()},
        smooth_sigma=_in_voxels(scorer.smooth_sigma, stack),
    )
    outlines = volumes.to_slices(stack, mask.transpose(1, 2, 0))[used] >= 0.5
    examples = [
        example_of(f"{subject}, slice {used[place]}", place, images, outlines, references)
        for place in most_lesion(outlines, wanted)
    ]
    return counted, scores, examples, residual


def _in_range(
    scorer: Scorer,
    slices: np.ndarray,
    limits: tuple[float, float] | None,
    keys: Sequence[str],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Slices in scanner units and their reconstructions, both in units of the slices' range."""
    low, high = maps.ranges(slices, limits)
    span = np.where(high > low, high - low, 1.0)
    images = ((slices - low) / span).astype(np.float32)

    def expected(model: Model, part: slice) -> np.ndarray:
        _, residual = maps.anomaly_maps(model, slices[part], limits)
        return images[part] - residual / span[part]

    return images, scorer.references(images, keys, expected)


def _on_grid(
    stack: volumes.Stack,
    slices: np.ndarray,
    given: np.ndarray | None = None,
    planes: np.ndarray | None = None,
) -> np.ndarray:
    """Slices on the volume's grid, float64 [planes, posterior, superior], 0 where none reaches.

    `given` and `planes` are those of `volumes.from_slices`.
    """
    exact = slices.astype(np.float64)
    brought = volumes.from_slices(stack, exact, given=given, planes=planes, unseen=0.0)
    return brought.transpose(2, 0, 1)


def _in_voxels(sigma: float, stack: volumes.Stack) -> tuple[float, float]:
    """A length in pixels of slices, in voxels of the volume along posterior and superior."""
    return sigma * stack.pixels[0], sigma * stack.pixels[1]
