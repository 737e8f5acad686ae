"""What the dataset is: roster, demographics, splits, reading, intensity, features, builder.

Importing this package makes `tfds.load("ixi_t1/thesis")` known to TFDS, unless the variable
IXI_TFDS_WITHOUT_BUILDER is set, as it is for preprocessing workers.
"""

import os

if "IXI_TFDS_WITHOUT_BUILDER" not in os.environ:
    from ixi_tfds.builder import IxiT1 as IxiT1
