"""Judging a SavedModel on the dataset."""
