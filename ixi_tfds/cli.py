"""What every command line of this project shares: flags in, one line and an exit code out."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags
from absl import logging as absl_logging

from ixi_tfds.errors import UserError

_HELP = {"-h", "--help", "-help", "--helpshort", "--helpfull"}


def run(
    main: Callable[[list[str]], None],
    flag_values: flags.FlagValues,
    argv: Sequence[str] | None = None,
    *,
    usage: str,
    pass_unknown: bool = False,
) -> int:
    """Parse the flags, call `main` with what is left of the arguments, return the exit code.

    Each entry module keeps its flags in a `FlagValues` of its own, so that several of them can be
    imported and run in one process.

    Args:
      main: takes the positional arguments and, with `pass_unknown`, the flags not known here.
      flag_values: the entry module's flags; values of an earlier run are forgotten.
      argv: arguments without the program's name; those of the process by default.
      usage: text that stands above the flags in `--help`.
      pass_unknown: leave unknown flags to `main` instead of refusing them.

    Returns:
      0 when `main` returned, 2 when the user has something to put right (one line on stderr says
      what), 130 when interrupted. Other exceptions are bugs and pass through.
    """
    _quieten_libraries()
    args = list(sys.argv[1:] if argv is None else argv)
    if _HELP & set(args):
        print(f"{usage.strip()}\n\nFlags:\n{_describe(flag_values)}")
        return 0
    for name in flag_values:
        flag_values[name].unparse()
    try:
        rest = flag_values([usage.split()[0], *args], known_only=pass_unknown)
        main(rest[1:])
    except (flags.Error, UserError) as error:
        print("error: " + one_line(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def one_line(text: str) -> str:
    """Text that may hold names of files, as one line that a terminal takes for nothing but text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def _quieten_libraries() -> None:
    """Keep what libraries log off the user's terminal; our own warnings stay."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("ixi_tfds").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.ERROR)


def _describe(flag_values: flags.FlagValues) -> str:
    """One line a flag, without the path of the file that defines it."""
    lines = []
    for name in sorted(flag_values):
        flag = flag_values[name]
        if flag.name == name:
            default = "" if flag.default is None else f" (default {flag.default})"
            lines.append(f"  --{name}: {' '.join(flag.help.split())}{default}")
    return "\n".join(lines)
