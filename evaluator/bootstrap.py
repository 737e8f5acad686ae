"""Bootstrap intervals over people: the same seed gives the same draws."""

import warnings

import numpy as np

CONFIDENCE = 0.95


def draw(people: int, *, draws: int, seed: int) -> np.ndarray:
    """How often each person is in each draw of as many people with replacement.

    It is the same as to draw them one by one, in less memory.

    Returns:
      int64 [draws, people].
    """
    random = np.random.default_rng(seed)
    return random.multinomial(people, np.full(people, 1 / people), size=draws)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval at `CONFIDENCE` of what the draws gave.

    With few people it is too narrow, as every bootstrap interval is.

    Args:
      values: [draws, ...]; those that are not finite do not count.

    Returns:
      Lower and upper ends, each [...]; NaN where no value is finite.
    """
    tail = (1 - CONFIDENCE) / 2
    finite = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(finite, [tail, 1 - tail], axis=0)
    return low, high
