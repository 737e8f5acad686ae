"""Command line of the preprocessing: make a dataset, or verify one."""

import sys
from collections.abc import Sequence

from beam_preprocess import workers

# Started first, so that it runs beside the slow imports below.
if __name__ == "__main__" and any("multi_processing" in argument for argument in sys.argv):
    workers.get_ready()

from ixi_tfds.system import commands


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    modules = {"": "beam_preprocess.make", "verify": "beam_preprocess.verify"}
    return commands.run_package("beam_preprocess", modules, argv)


if __name__ == "__main__":
    sys.exit(run())
