"""Training autoencoders on the dataset.

- A run: `training`, from a `config`; `workdir` lets it be killed, `callbacks` show it to people.
- What goes in: `data`, `augmentation`.
- What learns: the table in `models`; `autoencoder`, `losses`.
- On which devices and machines: `distribution`, `cluster`.
- What comes out: `export`.
- Many runs: `thesis` with `recipes/`; `tune`, of `search` and `tuning`.
"""
