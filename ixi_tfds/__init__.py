"""The dataset: cohorts, splits, reading of scans, scaling, features and TFDS builders.

Importing this package registers the builders with TFDS, so that `tfds.load("ixi_t1/thesis")`
works. Preprocessing workers set the variable IXI_TFDS_WITHOUT_BUILDER to skip this.
"""

import os
import sys

from ixi_tfds import lanes
from ixi_tfds.system import surroundings

_IN_WORKER = "IXI_TFDS_WITHOUT_BUILDER" in os.environ
if _IN_WORKER or surroundings.is_command(sys.orig_argv):
    surroundings.settle()
# Before anything imports TensorFlow.
lanes.prepare()

if not _IN_WORKER:
    from ixi_tfds.builder import IxiT1 as IxiT1
