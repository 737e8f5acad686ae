"""What the dataset is: roster, demographics, splits, reading, intensity, features, builder.

Importing this package makes `tfds.load("ixi_t1/thesis")` known to TFDS.
"""

from ixi_tfds.builder import IxiT1

__all__ = ["IxiT1"]
