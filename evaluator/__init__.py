"""Scores of SavedModels on a dataset, and their use on other scans.

- Scores of a split: the command `score`, run by `evaluation`; `scoring`, `statistics`, `bootstrap`,
  `results`; `published` has the scores of the thesis.
- Corrupted inputs: `robustness`.
- Lesions: the command `anomalies`; in `lesions/`, `synthetic` draws them, `pairs` finds files,
  `maps` scores pixels; `tallies`, `histograms` and `detection` measure the scores.
- Other scans: the command `reconstruct`; `volumes`.
- HTML reports: `report/`, its template `report.html`.
- Loading and checking of SavedModels: `models`.
- Flags that commands share: `options`.
"""
