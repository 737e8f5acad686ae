"""Statistics of scores by slice and by subject, with bootstrap intervals over subjects.

The slices of one person are alike, so people are resampled for intervals, never slices. Tables of
scores have one row for each slice (and model), as from `scoring.score_split`.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from evaluator import bootstrap
from ixi_tfds.images.metrics import METRICS

DRAWS = 2000
"""Bootstrap samples for an interval."""

AGE_BANDS = {"under 40": 40.0, "40 to 59": 60.0, "60 and over": math.inf}
"""Age bands with their upper limits in years, exclusive."""


def by_slice(frame: pd.DataFrame, metrics: Collection[str] = METRICS) -> pd.DataFrame:
    """Mean, population std, min and max over slices, one row for each metric."""
    values = frame[list(metrics)]
    return pd.DataFrame(
        {"mean": values.mean(), "std": values.std(ddof=0), "min": values.min(), "max": values.max()}
    )


def by_subject(frame: pd.DataFrame, metrics: Collection[str] = METRICS) -> pd.DataFrame:
    """Mean over subjects, each counted once, one row for each metric.

    Columns: `mean`, its interval `low` and `high`, and the number of `subjects`.
    """
    means = frame.groupby("subject")[list(metrics)].mean()
    low, high = interval(means.to_numpy())
    table = pd.DataFrame({"mean": means.mean(), "low": low, "high": high})
    return table.assign(subjects=len(means))


def paired_differences(
    frame: pd.DataFrame, reference: str, metrics: Collection[str] = METRICS
) -> pd.DataFrame:
    """Differences between the other models and the reference on the same subjects.

    A subject's difference is the model's mean over the subject's slices minus that of the
    reference. Pairing removes what makes a subject hard for every model, so the interval is
    narrower than two separate intervals suggest.

    Returns:
      One row for each model (except `reference`) and metric, in the order of `frame` and `metrics`:
      `model`, `metric`, `mean` over the subjects' differences, its interval `low` and `high`,
      `subjects`.

    Raises:
      ValueError: `reference` is no model in `frame`, or models have different subjects.
    """
    models = list(frame["model"].unique())
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
    """Mean metrics over the slices of each group, with its numbers of `subjects` and `slices`."""
    groups = frame.groupby(list(columns), dropna=False, observed=True)
    counts = groups.agg(subjects=("subject", "nunique"), slices=("key", "nunique"))
    return counts.join(groups[list(metrics)].mean()).reset_index()


def age_bands(ages: pd.Series) -> pd.Series:
    """The band of each age in years as an ordered category; "unknown" for NaN."""
    bands = pd.cut(ages, [-math.inf, *AGE_BANDS.values()], right=False, labels=list(AGE_BANDS))
    return bands.cat.add_categories("unknown").fillna("unknown")


def interval(values: np.ndarray, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap interval of the mean of each column of `values` [subjects, columns].

    Returns:
      Lower and upper ends, each [columns]; NaN for fewer than two subjects. The same values give
      the same interval.
    """
    subjects, columns = values.shape
    if subjects < 2:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    counts = bootstrap.draw(subjects, draws=draws, seed=0)
    return bootstrap.interval(counts @ values / subjects)
