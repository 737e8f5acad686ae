"""Training autoencoders on the dataset."""
