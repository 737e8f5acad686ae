"""Scores of SavedModels on a dataset, and their use on other scans.

- Scores of a split: the command `score`, run by `evaluation`; `scoring`, `statistics`, `bootstrap`,
  `results`; `published` has the scores of the thesis.
- Corrupted inputs: `robustness`, `robustness_report`.
- Lesions: the command `anomalies`; `lesions` draws them, `pairs` finds files, `anomaly` scores
  pixels, `tallies`, `curves` and `detection` measure the scores; `anomaly_report`.
- Other scans: the command `reconstruct`; `volumes`.
- HTML reports: `report`, `sections`, `figures`.
- Loading and checking of SavedModels: `models`.
- Flags that commands share: `options`.
"""
