"""The threshold of an ensemble, and the tissues of its training brains."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from evaluator.brains import ensemble, healthy, maps, tally
from evaluator.brains.ensemble import Ensemble, Healthy
from evaluator.lesions import histograms
from evaluator.lesions.tallies import Tally
from evaluator.models import load_models
from ixi_tfds.images.tissue import tissue_means
from ixi_tfds.system import storage

if TYPE_CHECKING:
    from evaluator.calibrate import CalibrateConfig
    from evaluator.scoring import Split
    from ixi_tfds.config import SliceConfig

_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95)
_MOST_FOR_TISSUES = 50


def calibrate(config: CalibrateConfig) -> Ensemble:
    """The ensemble of the models that a config names.

    Raises:
      UserError: models or dataset cannot be used, or do not fit together.
    """
    data = config.data
    models = load_models(
        [storage.at(path) for path in config.saved_model],
        allow_changed_model=config.checks.allow_changed_model,
    )
    slices = ensemble.check_same_space(models)
    made, (validation, train) = healthy.open_splits(
        data, config.checks, models, slices, ("validation", "train")
    )
    brains = healthy.shown_brains(validation, "healthy", config=made.config)
    tallies, _ = tally.of_healthy(tally.Judge(tuple(models)), brains)
    key = (maps.ENSEMBLE, "either")
    counts = tallies[key].overall
    limit = histograms.percentile_bin(counts, config.percentile)
    share, ml = _expected_alarms(tallies[key], config.percentile, math.prod(slices.spacing or ()))
    return Ensemble(
        members=ensemble.members_of(storage.at(config.output_dir), models),
        slices=slices,
        tissues=_tissues(train, made.config),
        percentile=config.percentile,
        threshold=histograms.upper_edge(limit),
        healthy=Healthy(
            dataset=data.dataset,
            fingerprint=made.fingerprint,
            heads=len(tallies[key].subjects),
            percentiles={
                f"{each:g}": histograms.upper_edge(histograms.percentile_bin(counts, each))
                for each in _PERCENTILES
            },
            share=share,
            ml=ml,
        ),
        mean=maps.GEOMETRIC,
    )


def _expected_alarms(found: Tally, percentile: float, voxel: float) -> tuple[float, float]:
    """What lies above the threshold in another healthy brain: its share, and ml of `voxel` mm3.

    The mean over the brains, each at the threshold of the others, for above their own threshold
    lies by its definition what the percentile says. A single brain has only its own.
    """
    above, shares = [], []
    for counts in found.subjects.values():
        others = found.overall - counts if len(found.subjects) > 1 else found.overall
        limit = histograms.percentile_bin(others, percentile)
        above.append(int(counts[0, limit + 1 :].sum()) * voxel / 1000)
        shares.append(int(counts[0, limit + 1 :].sum()) / int(counts[0].sum()))
    return float(np.mean(shares)), float(np.mean(above))


def _tissues(train: Split, config: SliceConfig) -> tuple[float, float, float]:
    """Medians over the first training brains, in the order of the shards."""
    brains = itertools.islice(healthy.brains_of(train, config), _MOST_FOR_TISSUES)
    means = [tissue_means(brain.values[brain.mask]) for _, brain in brains]
    fluid, grey, white = np.round(np.median(means, axis=0), 4).tolist()
    return fluid, grey, white
