"""A model run on all slices of a scan."""

import numpy as np
import tqdm

from evaluator import volumes
from evaluator.lesions import maps
from evaluator.models import Model
from ixi_tfds.cohorts.names import stem_of
from ixi_tfds.system.errors import ScanError


def run_model(
    model: Model, stack: volumes.Stack, path: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction and residual of all slices of a scan, float32 [n, H, W] in scanner units.

    Raises:
      ScanError: the model gives values that are not finite; `path` is that of the scan.
    """
    n = stack.slices.n
    height, width = stack.rule.size
    reconstruction, residual = np.empty((2, n, height, width), np.float32)
    with tqdm.tqdm(
        total=n, unit="slice", desc=stem_of(path), disable=None, leave=False
    ) as progress:
        for first in range(0, n, batch_size):
            last = min(first + batch_size, n)
            slices = volumes.scanner_slices(stack, first, last)
            made = maps.anomaly_maps(model, slices, stack.limits)
            if not all(np.isfinite(values).all() for values in made):
                raise ScanError(
                    "non_finite",
                    path,
                    f"the model gives values that are not finite for slices {first} to {last - 1}",
                )
            reconstruction[first:last], residual[first:last] = made
            progress.update(last - first)
    return reconstruction, residual
