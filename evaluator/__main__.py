"""The commands of this package: `python -m evaluator --help`."""

import sys
from collections.abc import Sequence

from ixi_tfds.system import commands

MODULES = {
    "": "evaluator.score",
    "reconstruct": "evaluator.reconstruct",
    "anomalies": "evaluator.anomalies",
    "calibrate": "evaluator.calibrate",
}


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own, and give the exit code."""
    return commands.run_package("evaluator", MODULES, argv)


if __name__ == "__main__":
    sys.exit(run())
