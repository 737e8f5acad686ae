"""The trainer's commands: `python -m trainer [COMMAND] --flags`."""

import importlib
import sys
from collections.abc import Sequence

from ixi_tfds.system import commands


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, as `commands.run` does."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] in (["tune"], ["thesis"]):
        return importlib.import_module(f"trainer.{args[0]}").run(args[1:])
    return commands.run_package("trainer", {"": "trainer.train"}, args)


if __name__ == "__main__":
    sys.exit(run())
