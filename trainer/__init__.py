"""Training autoencoders on the dataset.

- One run: the command `train`; `config`, `run`; `workdir` makes it resumable,
  `callbacks` report its progress.
- Input: `data`, `augmentation`.
- Model: the table in `models`; `autoencoder`, `losses`.
- Devices and machines: `distribution`, `cluster`.
- Output: `export`.
- Many runs: `thesis` with `recipes/`; `tune` with `search`.
"""
