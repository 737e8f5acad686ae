"""The trainer's commands: `python -m trainer [COMMAND] --flags`."""

import sys
from collections.abc import Sequence

from ixi_tfds.system import commands

COMMANDS = {"": "trainer.train", "tune": "trainer.tune", "thesis": "trainer.thesis"}


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, as `commands.run` does."""
    return commands.run_package("trainer", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(run())
