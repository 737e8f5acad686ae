"""The dataset: cohorts, splits, reading of scans, scaling, features and TFDS builders.

Importing this package registers the builders with TFDS, so that `tfds.load("ixi_t1/thesis")`
works. This imports TFDS, so commands (`python -m ...`), which have no use for it, do without; so do
preprocessing workers, by the variable IXI_TFDS_WITHOUT_BUILDER.
"""

import os
import sys

from ixi_tfds import lanes
from ixi_tfds.system import surroundings

_OURS = "IXI_TFDS_WITHOUT_BUILDER" in os.environ or surroundings.is_command(sys.orig_argv)
if _OURS:
    surroundings.settle()
# Before anything imports TensorFlow.
lanes.prepare()

if not _OURS:
    from ixi_tfds.builder import IxiT1 as IxiT1
