"""Models of brains as one ensemble: its file, its maps of a brain, how well they find lesions."""
