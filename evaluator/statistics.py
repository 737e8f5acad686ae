"""Scores into statistics, by slice and by subject, with bootstrap intervals over subjects.

The slices of a person resemble one another, so intervals come from resampling people, never slices.
Every function takes a table with a row a slice (and model), as `scoring.score_split` makes it.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from evaluator import bootstrap
from ixi_tfds.images.metrics import METRICS

DRAWS = 2000
"""How often subjects are drawn anew for an interval."""

AGE_BANDS = {"under 40": 40.0, "40 to 59": 60.0, "60 and over": math.inf}
"""Each band, and the age in years that it stays below."""


def by_slice(frame: pd.DataFrame, metrics: Collection[str] = METRICS) -> pd.DataFrame:
    """Mean, std (population), min and max over the slices: a row a metric."""
    values = frame[list(metrics)]
    return pd.DataFrame(
        {"mean": values.mean(), "std": values.std(ddof=0), "min": values.min(), "max": values.max()}
    )


def by_subject(frame: pd.DataFrame, metrics: Collection[str] = METRICS) -> pd.DataFrame:
    """Mean over subjects, each of whom counts once, with its interval: a row a metric.

    Columns: `mean`, `low`, `high` (see `interval`) and `subjects`, their number.
    """
    means = frame.groupby("subject")[list(metrics)].mean()
    low, high = interval(means.to_numpy())
    table = pd.DataFrame({"mean": means.mean(), "low": low, "high": high})
    return table.assign(subjects=len(means))


def paired_differences(
    frame: pd.DataFrame, reference: str, metrics: Collection[str] = METRICS
) -> pd.DataFrame:
    """How much better or worse than the reference the other models are on the same subjects.

    A subject's difference is the mean of the model over the subject's slices minus that of the
    reference. Pairing takes out what makes a subject hard for every model, so the interval says
    what two unpaired ones cannot.

    Args:
      frame: with the columns `model`, `subject` and `metrics`.
      reference: a value of `model`.
      metrics: columns to compare.

    Returns:
      A row a model (other than the reference) and metric, in the order of `frame` and `metrics`:
      `model`, `metric`, `mean` of the differences over the subjects, their interval `low` and
      `high`, `subjects`.

    Raises:
      ValueError: the reference is not there, or a model lacks subjects that another has.
    """
    models = list(dict.fromkeys(frame["model"]))
    if reference not in models:
        raise ValueError(f"no model {reference!r} among {', '.join(models)}")
    means = frame.groupby(["model", "subject"])[list(metrics)].mean()
    rows = []
    for model in models:
        if not means.loc[model].index.equals(means.loc[reference].index):
            raise ValueError(f"{model} and {reference} were not scored on the same subjects")
        differences = means.loc[model] - means.loc[reference]
        low, high = interval(differences.to_numpy())
        for place, metric in enumerate(metrics):
            rows.append(
                {
                    "model": model,
                    "metric": metric,
                    "mean": differences[metric].mean(),
                    "low": low[place],
                    "high": high[place],
                    "subjects": len(differences),
                }
            )
    return pd.DataFrame([row for row in rows if row["model"] != reference])


def by_group(
    frame: pd.DataFrame, columns: Sequence[str], metrics: Collection[str] = METRICS
) -> pd.DataFrame:
    """Numbers of subjects and slices and mean metrics over the slices of each group.

    Returns:
      The columns, `subjects`, `slices` and the metrics; in the order of the groups' values.
    """
    groups = frame.groupby(list(columns), dropna=False, observed=True)
    counts = groups.agg(subjects=("subject", "nunique"), slices=("key", "nunique"))
    return counts.join(groups[list(metrics)].mean()).reset_index()


def age_bands(ages: pd.Series) -> pd.Series:
    """The band of each age in years, as an ordered category; NaN is "unknown"."""
    bands = pd.cut(ages, [-math.inf, *AGE_BANDS.values()], right=False, labels=list(AGE_BANDS))
    return bands.cat.add_categories("unknown").fillna("unknown")


def interval(values: np.ndarray, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap interval of the mean of each column; the same rows give the same interval.

    Args:
      values: [subjects, columns], one row a subject.
      draws: how often subjects are drawn.

    Returns:
      Its lower and upper ends, each [columns]; NaN for fewer than two subjects.
    """
    subjects, columns = values.shape
    if subjects < 2:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    counts = bootstrap.draw(subjects, draws=draws, seed=0)
    return bootstrap.interval(counts @ values / subjects)
