"""Models of brains as one ensemble: its file, its maps of a brain, and how well they find lesions."""
