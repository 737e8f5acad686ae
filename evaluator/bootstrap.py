"""Bootstrap intervals over people."""

import warnings

import numpy as np

CONFIDENCE = 0.95

FEWEST_PEOPLE = 5
"""Intervals from fewer people mean nothing: samples of so few are hardly different."""

_FEW_PEOPLE = 20


def caution(people: int) -> str:
    """What a reader of intervals from so many people must know, a sentence; "" if they are many."""
    if people >= _FEW_PEOPLE:
        return ""
    nothing = f"; from fewer than {FEWEST_PEOPLE} people, intervals mean nothing"
    return (
        f"With as few as {people} people they are too narrow rather than too wide"
        f"{nothing if people < FEWEST_PEOPLE else ''}."
    )


def draw(people: int, *, draws: int, seed: int) -> np.ndarray:
    """How often each person occurs in each bootstrap sample, int64 [draws, people].

    The same seed gives the same samples.
    """
    random = np.random.default_rng(seed)
    return random.multinomial(people, np.full(people, 1 / people), size=draws)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval at `CONFIDENCE` of the values [draws, ...] of bootstrap samples.

    With few people, bootstrap intervals are too narrow. Values that are not finite are left out.

    Returns:
      Lower and upper ends, each [...]; NaN where no value is finite.
    """
    tail = (1 - CONFIDENCE) / 2
    finite = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(finite, [tail, 1 - tail], axis=0)
    return low, high
