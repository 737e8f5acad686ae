"""How well models restore corrupted slices: scores against the clean slice.

The thesis left this question open. Corruptions and severities are those of `CORRUPTIONS`. Random
draws depend on the slice's key alone, not on the batch or the severity: a higher severity has the
same noise at a larger amplitude, the same patches at a larger size, the same lost pixels and more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tqdm

from evaluator import statistics
from evaluator.models import Model
from evaluator.scoring import Split, batch_keys, read_batches
from ixi_tfds.images import metrics
from ixi_tfds.images.corruptions import CORRUPTIONS, conditions
from ixi_tfds.images.scaling import to_unit
from ixi_tfds.system.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

INPUT = "corrupted input"
"""Name of the corrupted slices in the scores, like a model that changes nothing."""

METRICS = ("psnr", "ssim")

THESIS_SEVERITY = 3
_THESIS_CORRUPTIONS = ("blur", "pixel dropout")
"""The thesis corrupted two slices of each person: one by zeroed patches, one by one of these."""


def corrupt(slices: tf.Tensor, keys: Sequence[str], corruption: str, severity: int) -> tf.Tensor:
    """Corrupt slices, float32 [B, H, W, 1] in [0, 1] with H and W known.

    Random draws depend on the slices' `keys` alone. `severity` is from 1; 0 changes nothing.
    """
    if severity == 0:
        return slices

    def draw(of_slice: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
        drawn = [of_slice(_generator(f"{corruption}:{key}")) for key in keys]
        return np.stack(drawn).astype(np.float32)

    return CORRUPTIONS[corruption].apply(slices, draw, amount(corruption, severity))


def amount(corruption: str, severity: int) -> float:
    """The amount of a severity, from 1, in the corruption's unit."""
    return CORRUPTIONS[corruption].severities[severity - 1]


def _generator(text: str) -> np.random.Generator:
    # `files.generator` seeds from the same digest in another way. Published scores depend on these
    # draws, and synthetic heads on those, so neither can change.
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def score_corrupted(models: Sequence[Model], split: Split, *, batch_size: int) -> pd.DataFrame:
    """Score the reconstructions of corrupted slices against the clean ones.

    Returns:
      One row for each model, condition and slice: `model` (also `INPUT`), `corruption` ("none" for
      the clean input), `severity` (0 for the clean input), `key`, `subject`, `psnr` (dB), `ssim`.

    Raises:
      UserError: a model gives values that are not finite.
    """
    judge = _judge(split.size)
    tables = []
    total = split.slices * len(conditions()) * len(models)
    with tqdm.tqdm(total=total, unit="slice", desc="robustness", disable=None) as progress:
        for batch in read_batches(split, batch_size):
            clean = to_unit(batch["image"])
            keys = batch_keys(batch)
            subjects = [subject.decode() for subject in batch["subject"].numpy()]
            for corruption, severity in conditions():
                slices = corrupt(clean, keys, corruption, severity)
                judged = {INPUT: judge(clean, slices)}
                for model in models:
                    judged[model.name] = judge(clean, model.reconstruct(slices))
                    progress.update(len(keys))
                for name, values in judged.items():
                    facts = {"model": name, "corruption": corruption, "severity": severity}
                    rows = {"key": keys, "subject": subjects}
                    rows |= dict(zip(METRICS, values.numpy().T, strict=True))
                    tables.append(pd.DataFrame(facts | rows))
    frame = pd.concat(tables, ignore_index=True)
    _check_finite(frame)
    return _sorted(frame, [INPUT, *(model.name for model in models)])


def _judge(size: tuple[int, int]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function from clean and other slices, [B, H, W, 1], to `METRICS`, float32 [B, 2]."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, *size, 1))] * 2)
    def judge(clean: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return tf.stack([metrics.METRICS[name].function(clean, other) for name in METRICS], axis=1)

    return judge


def _check_finite(frame: pd.DataFrame) -> None:
    wrong = frame[~np.isfinite(frame[list(METRICS)]).all(axis=1)]
    if len(wrong):
        row = wrong.iloc[0]
        raise UserError(
            f"{row['model']} gives values that are not finite for slice {row['key']} "
            f"({row['corruption']}, severity {row['severity']})"
        )


def _sorted(frame: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """Rows in the order of `models`, corruptions, severities and keys."""
    for column, categories in (
        ("model", models),
        ("corruption", ["none", *CORRUPTIONS]),
        ("key", None),
        ("subject", None),
    ):
        frame[column] = pd.Categorical(frame[column], categories)
    order = ["model", "corruption", "severity", "key"]
    return frame.sort_values(order, ignore_index=True)


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over subjects, of what `score_corrupted` gives, with their intervals.

    Returns:
      One row for each model, corruption and severity: `model`, `corruption`, `severity`, `amount`
      (in the corruption's unit; 0 for the clean input), `slices`, `subjects`, and `psnr`,
      `psnr_low`, `psnr_high`, `ssim`, `ssim_low`, `ssim_high`. There is no row of `INPUT` for the
      clean input, which would compare slices with themselves.
    """
    rows = []
    columns = ["model", "corruption", "severity"]
    for (model, corruption, severity), group in frame.groupby(columns, observed=True):
        corruption, severity = str(corruption), int(severity)  # type: ignore[call-overload]
        if (model, corruption) == (INPUT, "none"):
            continue
        row = {"model": model, "corruption": corruption, "severity": severity}
        row["amount"] = amount(corruption, severity) if severity else 0.0
        table = statistics.by_subject(group.astype({"subject": str}), METRICS)
        row |= {"slices": len(group), "subjects": int(table["subjects"].iloc[0])}
        for metric in METRICS:
            mean, low, high = table.loc[metric, ["mean", "low", "high"]]
            row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def thesis_set(keys: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The thesis's test set: two slices of each person, one with zeroed patches.

    The other slice is blurred or has lost pixels, at random. Draws depend on the subject's name
    alone; the severity is the middle one.

    Args:
      keys: (subject, key) of every slice.

    Returns:
      `subject`, `key`, `corruption`, `severity`: two rows for each subject, or one if it has one
      slice.
    """
    by_subject: dict[str, list[str]] = {}
    for subject, key in sorted(set(keys)):
        by_subject.setdefault(subject, []).append(key)
    rows = []
    for subject, slices in by_subject.items():
        random = _generator(f"thesis's set:{subject}")
        chosen = random.permutation(slices)[:2]
        kinds = (str(random.choice(_THESIS_CORRUPTIONS)), "zeroed patches")
        rows += [
            {"subject": subject, "key": str(key), "corruption": kind, "severity": THESIS_SEVERITY}
            for key, kind in zip(chosen, kinds, strict=False)
        ]
    return pd.DataFrame(rows)


def score_thesis_set(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean scores on the thesis's set, of what `score_corrupted` gives.

    Returns:
      One row for each model and corruption: `model`, `corruption`, `slices`, `psnr`, `ssim`.
    """
    chosen = thesis_set(list(zip(frame["subject"], frame["key"], strict=True)))
    joined = frame.merge(chosen, on=["subject", "key", "corruption", "severity"])
    groups = joined.groupby(["model", "corruption"], sort=False)
    return groups.agg(
        slices=("key", "size"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    ).reset_index()
