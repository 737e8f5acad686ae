"""Searching for hyper-parameters: `space` is what varies, `run` the search, `tuner` keras-tuner."""
