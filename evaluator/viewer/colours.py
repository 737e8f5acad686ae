"""Colours of the overlay: orange above zero, blue below, distinct with every colour blindness.

Both grow lighter with the size, so that the size can be read in grey, too.
"""

import numpy as np

BRIGHT = ((120, 50, 0), (215, 95, 0), (255, 140, 0), (255, 195, 40))
DARK = ((0, 50, 130), (0, 100, 210), (30, 150, 255), (100, 200, 255))


def colours_of(anomaly: np.ndarray, limit: float) -> np.ndarray:
    """Colours of anomalies, float [..., 3] in [0, 1]; they saturate at `limit`."""
    size = np.clip(np.abs(anomaly) / limit, 0, 1)
    stops = np.linspace(0, 1, len(BRIGHT))
    bright, dark = (
        np.stack([np.interp(size, stops, channel) for channel in np.transpose(table)], axis=-1)
        for table in (BRIGHT, DARK)
    )
    return np.where((anomaly >= 0)[..., None], bright, dark) / 255
