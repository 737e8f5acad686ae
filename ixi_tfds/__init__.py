"""The dataset: cohorts, splits, reading of scans, scaling, features and TFDS builders.

Importing this package registers the builders with TFDS, so that `tfds.load("ixi_t1/thesis")`
works. Preprocessing workers set the variable IXI_TFDS_WITHOUT_BUILDER to skip this.
"""

import os

from ixi_tfds import lanes

# Before anything imports TensorFlow.
lanes.prepare()

if "IXI_TFDS_WITHOUT_BUILDER" not in os.environ:
    from ixi_tfds.builder import IxiT1 as IxiT1
