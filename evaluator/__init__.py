"""Judging a SavedModel on the dataset.

- Scores of a split: `score` is the command and `evaluation` its work; `scoring`, `statistics`,
  `bootstrap`, `results`, and `published` for those of the thesis.
- Corrupted inputs: `robustness`, `robustness_report`.
- Lesions: `anomalies` runs it; `lesions` makes them, `pairs` finds files; `anomaly` scores pixels;
  `tallies`, `curves` and `detection` judge the scores; `anomaly_report`.
- Scans of your own: `reconstruct`, `volumes`.
- Pages for people: `report`, `sections`, `figures`.
- SavedModels, and whether they are what their cards say: `models`.
- Flags that several commands have: `options`.
"""
