"""Images: scaling, corruptions, metrics."""
