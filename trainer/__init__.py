"""Training autoencoders on the dataset.

- A run: `training`, from a `config`; `state` lets it be killed, `callbacks` show it to people.
- What goes in: `sources`, `input_pipeline`, `augmentation`.
- What learns: `models`, of `blocks` and `normalization`; `autoencoder`, `losses`, `pretrained`.
- On which devices and machines: `distribution`, `cluster`.
- What comes out: `export`, `canonical`, `model_card`, `warmup`.
- Many runs: `thesis` with `recipes/`; `tune`, of `search` and `tuning`.
"""
