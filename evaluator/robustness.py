"""How well models undo what happened to their input: scores against the clean slice.

The thesis left this question open. `CORRUPTIONS` has the corruptions and their severities. What is
random about a corruption depends on the slice's key alone, and not on the batch or the severity: a
higher severity is the same noise louder, the same patches larger, the same lost pixels and more.
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
from ixi_tfds.errors import UserError
from ixi_tfds.images import metrics
from ixi_tfds.images.corruptions import CORRUPTIONS, conditions
from ixi_tfds.images.scaling import to_unit

if TYPE_CHECKING:
    import tensorflow as tf

INPUT = "corrupted input"
"""Name under which the corrupted slices themselves are scored, as a model that does nothing."""

METRICS = ("psnr", "ssim")

THESIS_SEVERITY = 3
_THESIS_CORRUPTIONS = ("blur", "pixel dropout")
"""The thesis corrupted two slices of each person, one by zeroed patches, the other by one of these
two."""


def corrupt(slices: tf.Tensor, keys: Sequence[str], corruption: str, severity: int) -> tf.Tensor:
    """Corrupt slices; what is random about a slice's corruption depends on its key alone.

    Args:
      slices: float32 [B, H, W, 1] in [0, 1], H and W known.
      keys: names of the slices.
      corruption: one of `CORRUPTIONS`.
      severity: from 1; 0 leaves the slices as they are.

    Returns:
      float32 [B, H, W, 1] in [0, 1].
    """
    if severity == 0:
        return slices

    def draw(of_slice: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
        drawn = [of_slice(_generator(f"{corruption}:{key}")) for key in keys]
        return np.stack(drawn).astype(np.float32)

    return CORRUPTIONS[corruption].apply(slices, draw, amount(corruption, severity))


def amount(corruption: str, severity: int) -> float:
    """How much a severity, from 1, is, in the corruption's unit."""
    return CORRUPTIONS[corruption].severities[severity - 1]


def _generator(text: str) -> np.random.Generator:
    # `files.generator` seeds by the same digest in another way. Scores depend on these draws, and
    # made-up heads on those, so that neither can change.
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def score_corrupted(models: Sequence[Model], split: Split, *, batch_size: int) -> pd.DataFrame:
    """Score the reconstructions of corrupted slices against the clean ones.

    Returns:
      A row a model, condition and slice: `model` (`INPUT` is one of them), `corruption`,
      `severity` (0 for the clean input, under the corruption "none"), `key`, `subject`, `psnr`
      (dB), `ssim`. Numbers only: no image is kept.

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
    """Give a function of clean and other slices, [B, H, W, 1]: `METRICS`, float32 [B, 2]."""
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
    """By model and corruption in the order in which they were given, by severity, by key."""
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
    """Means over subjects with their intervals, a row a model, corruption and severity.

    Args:
      frame: what `score_corrupted` gives.

    Returns:
      `model`, `corruption`, `severity`, `amount` (in the corruption's unit; 0 for the clean
      input), `slices`, `subjects`, and `psnr`, `psnr_low`, `psnr_high`, `ssim`, `ssim_low`,
      `ssim_high`. The input's own row for the clean input is left out: it would compare a slice
      with itself.
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
    """The thesis's own protocol: two slices of each person, one blurred or noised, one zeroed.

    Its noise is that 10% of the pixels are lost. Which slices, and which of blur and loss, is drawn
    from the subject's name; the severity is the middle one.

    Args:
      keys: (subject, key) of every slice.

    Returns:
      `subject`, `key`, `corruption`, `severity`, two rows a subject; one where there is one slice.
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
    """Mean scores on the thesis's set, a row a model and corruption.

    Args:
      frame: what `score_corrupted` gives.

    Returns:
      `model`, `corruption`, `slices`, `psnr`, `ssim`.
    """
    chosen = thesis_set(list(zip(frame["subject"], frame["key"], strict=True)))
    joined = frame.merge(chosen, on=["subject", "key", "corruption", "severity"])
    groups = joined.groupby(["model", "corruption"], sort=False)
    return groups.agg(
        slices=("key", "size"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    ).reset_index()
