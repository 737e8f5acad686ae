"""The export of a run: the SavedModel, its card, and requests that warm up a server."""
