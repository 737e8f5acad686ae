"""What is done to pixels: metrics, corruptions."""
