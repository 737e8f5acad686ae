"""Colours of the overlay: orange above zero, blue below, distinct with every colour blindness.

Both grow lighter with the size, so that the size can be read in grey, too.
"""

import numpy as np

BRIGHT = ((150, 60, 0), (235, 120, 0), (255, 190, 60), (255, 240, 190))
DARK = ((0, 60, 150), (0, 120, 220), (80, 180, 245), (205, 238, 255))


def colours_of(anomaly: np.ndarray, limit: float) -> np.ndarray:
    """Colours of anomalies, float [..., 3] in [0, 1]; they saturate at `limit`."""
    size = np.clip(np.abs(anomaly) / limit, 0, 1)
    stops = np.linspace(0, 1, len(BRIGHT))
    bright, dark = (
        np.stack([np.interp(size, stops, channel) for channel in np.transpose(table)], axis=-1)
        for table in (BRIGHT, DARK)
    )
    return np.where((anomaly >= 0)[..., None], bright, dark) / 255
