"""What a run gives away: the SavedModel, its card, and requests that warm up a server."""
