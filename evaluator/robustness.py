"""How well models undo what happened to their input: scores against the clean slice.

The thesis's open question. Every corruption has five severities; what is random about it is a
function of the slice's key alone, so that severities are more of the same (the same noise louder,
the same patches larger, the same lost pixels and further ones), whatever the batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tqdm

from evaluator import statistics
from evaluator.scoring import Model, Split, batch_keys, read_batches
from ixi_tfds.errors import UserError
from ixi_tfds.images.scaling import to_unit

if TYPE_CHECKING:
    import tensorflow as tf

SEVERITIES: Mapping[str, tuple[float, ...]] = {
    "blur": (0.5, 1.0, 1.5, 2.0, 3.0),
    "zeroed patches": (0.1, 0.15, 0.2, 0.25, 0.3),
    "coarse dropout": (0.01, 0.02, 0.05, 0.1, 0.2),
    "pixel dropout": (0.025, 0.05, 0.1, 0.2, 0.4),
    "Gaussian noise": (0.01, 0.02, 0.05, 0.1, 0.2),
    "Rician noise": (0.01, 0.02, 0.05, 0.1, 0.2),
}
"""Each corruption's amount at severities 1 to 5, in its unit in `UNITS`."""

UNITS = {
    "blur": "sigma in pixels",
    "zeroed patches": "side of each of the two, share of the height",
    "coarse dropout": "share of 2x2 blocks lost",
    "pixel dropout": "share of pixels lost",
    "Gaussian noise": "standard deviation",
    "Rician noise": "standard deviation in both channels",
}

INPUT = "corrupted input"
"""Name under which the corrupted slices themselves are scored, as a model that does nothing."""

METRICS = ("psnr", "ssim")
PATCHES = 2
_THESIS_SEVERITY = 3
_TARNISHED = ("blur", "pixel dropout")
"""What the thesis did to the one of its two slices of each person that it did not zero."""


def corrupt(slices: tf.Tensor, keys: Sequence[str], corruption: str, severity: int) -> tf.Tensor:
    """Corrupt slices, each by what its key says.

    Args:
      slices: float32 [B, H, W, 1] in [0, 1], H and W known.
      keys: names of the slices.
      corruption: one of `SEVERITIES`.
      severity: 1 to 5; 0 leaves the slices as they are.

    Returns:
      float32 [B, H, W, 1] in [0, 1].
    """
    if severity == 0:
        return slices
    return _CORRUPTIONS[corruption](slices, keys, amount(corruption, severity))


def amount(corruption: str, severity: int) -> float:
    """How much a severity, 1 to 5, is, in the corruption's unit."""
    return SEVERITIES[corruption][severity - 1]


def _blur(slices: tf.Tensor, keys: Sequence[str], sigma: float) -> tf.Tensor:
    from ixi_tfds import corruptions

    return corruptions.gaussian_blur(slices, sigma)


def _zero(slices: tf.Tensor, keys: Sequence[str], share: float) -> tf.Tensor:
    from ixi_tfds import corruptions

    height, width = slices.shape[1:3]
    # In the middle three fifths of both axes, where the head is.
    places = _draw("zeroed patches", keys, lambda random: random.random((PATCHES, 2)))
    centers = (0.2 + 0.6 * places) * np.array([height, width], np.float32)
    sizes = np.full((len(keys), PATCHES), round(share * height), np.float32)
    return corruptions.zero_patches(slices, centers, sizes)


def _drop(corruption: str, block: int) -> Callable[[tf.Tensor, Sequence[str], float], tf.Tensor]:
    def drop(slices: tf.Tensor, keys: Sequence[str], share: float) -> tf.Tensor:
        from ixi_tfds import corruptions

        height, width = slices.shape[1:3]
        # An odd side cannot be cut into blocks of two.
        shape = [side // block if side % block == 0 else side for side in (height, width)]
        keep = _draw(corruption, keys, lambda random: random.random(shape)) >= share
        return corruptions.pixel_dropout(slices, keep)

    return drop


def _add_noise(slices: tf.Tensor, keys: Sequence[str], deviation: float) -> tf.Tensor:
    from ixi_tfds import corruptions

    shape = slices.shape[1:]
    noise = _draw("Gaussian noise", keys, lambda random: random.standard_normal(shape, np.float32))
    return corruptions.gaussian_noise(slices, deviation * noise)


def _add_rician_noise(slices: tf.Tensor, keys: Sequence[str], deviation: float) -> tf.Tensor:
    from ixi_tfds import corruptions

    shape = (2, *slices.shape[1:])
    noise = _draw("Rician noise", keys, lambda random: random.standard_normal(shape, np.float32))
    return corruptions.rician_noise(slices, deviation * noise[:, 0], deviation * noise[:, 1])


_CORRUPTIONS: Mapping[str, Callable[[tf.Tensor, Sequence[str], float], tf.Tensor]] = {
    "blur": _blur,
    "zeroed patches": _zero,
    "coarse dropout": _drop("coarse dropout", 2),
    "pixel dropout": _drop("pixel dropout", 1),
    "Gaussian noise": _add_noise,
    "Rician noise": _add_rician_noise,
}


def _draw(
    corruption: str, keys: Sequence[str], draw: Callable[[np.random.Generator], np.ndarray]
) -> np.ndarray:
    """What `draw` gives for each key, float32, from a generator of its own."""
    return np.stack([draw(_generator(f"{corruption}:{key}")) for key in keys]).astype(np.float32)


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def conditions() -> list[tuple[str, int]]:
    """Every (corruption, severity) that is scored: the clean input once, then 30."""
    every = [(name, number) for name in SEVERITIES for number in range(1, 6)]
    return [("none", 0), *every]


def score_corrupted(models: Sequence[Model], split: Split, *, batch_size: int) -> pd.DataFrame:
    """Score the reconstructions of corrupted slices against the clean ones.

    Returns:
      A row a model, condition and slice: `model` (`INPUT` is one of them), `corruption`,
      `severity` (0 for the clean input, under the corruption "none"), `key`, `subject`, `psnr`
      (dB), `ssim`. Numbers only: no image is kept.

    Raises:
      UserError: a model gives values that are not finite.
    """
    import tensorflow as tf

    from evaluator import metrics

    @tf.function(input_signature=[tf.TensorSpec((None, *split.size, 1))] * 2)
    def judge(clean: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return tf.stack([metrics.psnr(clean, other), metrics.ssim(clean, other)], axis=1)

    tables = []
    total = split.slices * len(conditions()) * len(models)
    with tqdm.tqdm(total=total, unit="slice", desc="robustness", disable=None) as progress:
        for batch in read_batches(split, batch_size):
            clean = to_unit(batch["image"])
            keys = batch_keys(batch)
            subjects = [subject.decode() for subject in batch["subject"].numpy()]
            for corruption, severity in conditions():
                slices = corrupt(clean, keys, corruption, severity)
                judged: dict[str, Any] = {INPUT: judge(clean, slices)}
                for model in models:
                    judged[model.name] = judge(clean, model.reconstruct(slices))
                    progress.update(len(keys))
                for name, values in judged.items():
                    psnr, ssim = values.numpy().T
                    facts = {"model": name, "corruption": corruption, "severity": severity}
                    rows = {"key": keys, "subject": subjects, "psnr": psnr, "ssim": ssim}
                    tables.append(pd.DataFrame(facts | rows))
    frame = pd.concat(tables, ignore_index=True)
    wrong = frame[~np.isfinite(frame[list(METRICS)]).all(axis=1)]
    if len(wrong):
        row = wrong.iloc[0]
        raise UserError(
            f"{row['model']} gives values that are not finite for slice {row['key']} "
            f"({row['corruption']}, severity {row['severity']})"
        )
    for column, order in (
        ("model", [INPUT, *(model.name for model in models)]),
        ("corruption", ["none", *SEVERITIES]),
        ("key", None),
        ("subject", None),
    ):
        frame[column] = pd.Categorical(frame[column], order)
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
        kinds = (str(random.choice(_TARNISHED)), "zeroed patches")
        rows += [
            {"subject": subject, "key": str(key), "corruption": kind, "severity": _THESIS_SEVERITY}
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
