"""Search for hyper-parameters: `run` searches the `space`; `tuner` adapts keras-tuner."""
