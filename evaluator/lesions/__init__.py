"""Do residuals find lesions? Maps, synthetic lesions and masks, histograms, statistics."""
