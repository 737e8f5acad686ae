"""The results that the thesis published for its runs."""

from __future__ import annotations

import importlib.resources

from etils import epy

with epy.lazy_imports():
    import pandas as pd


def published() -> pd.DataFrame:
    """One row per run, in the thesis's order, indexed by the name of its recipe.

    Columns: the flags `model`, `weights`, `loss`, `optimizer`, `batch_size` and `epochs`; the best
    validation loss `val_loss` and its `epoch`; mean, std, min and max of PSNR (dB) and SSIM over
    the 2,880 slices of 256x256 of its test split, such as `psnr_mean`.
    """
    with importlib.resources.files("ixi_tfds").joinpath("thesis_results.csv").open() as file:
        return pd.read_csv(file, index_col="recipe")
