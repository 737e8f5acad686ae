"""The commands of this package: `python -m evaluator --help`."""

import importlib
import sys
from collections.abc import Sequence

from ixi_tfds.system import commands

MODULES = {
    "": "evaluator.score",
    "reconstruct": "evaluator.reconstruct",
    "anomalies": "evaluator.anomalies",
}


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own, and give the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    ready = {n: m for n, m in MODULES.items() if hasattr(importlib.import_module(m), "COMMAND")}
    if args and args[0] in MODULES.keys() - ready:
        return importlib.import_module(MODULES[args[0]]).run(args[1:])
    return commands.run_package("evaluator", ready, args)


if __name__ == "__main__":
    sys.exit(run())
