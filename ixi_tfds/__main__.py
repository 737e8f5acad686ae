"""`python -m ixi_tfds`: download a cohort, or make a synthetic one."""

import sys
from collections.abc import Sequence

from ixi_tfds.system import commands

_MODULES = {"download": "ixi_tfds.download.command", "cohort": "ixi_tfds.demo.command"}


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit code."""
    return commands.run_package("ixi_tfds", _MODULES, argv)


if __name__ == "__main__":
    sys.exit(run())
