"""Judging a SavedModel on the dataset.

- Scores of a split: `evaluation` runs it; `scoring`, `metrics`, `statistics`, `results`, and
  `published` for those of the thesis.
- Corrupted inputs: `robustness`, `robustness_report`.
- Lesions: `anomalies` runs it; `lesions` makes them, `pairs` finds files; `anomaly` scores pixels;
  `tallies`, `curves` and `detection` judge the scores; `anomaly_report`.
- Scans of your own: `reconstruct`, `volumes`.
- Pages for people: `report`, `sections`, `figures`.
- Whether a model is what its card says: `bundle`.
"""
