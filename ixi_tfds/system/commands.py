"""Command lines: `python -m PACKAGE [COMMAND] --flags` in, one line and an exit code out."""

import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags
from absl import logging as absl_logging

from ixi_tfds.system import flags
from ixi_tfds.system.errors import UserError

_HELP = {"-h", "--help", "-help", "--helpshort", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a package.

    Attributes:
      config: the dataclass whose fields are its flags, made by `flags.flag`.
      main: does the work, given a config; with `passes_on` also the arguments that are no flags.
      summary: one line for the list of commands.
      usage: the text above the flags in `--help`; its first line is the command line itself.
      passes_on: hand arguments that are no flags of the config to `main`, rather than refuse them.
    """

    config: type
    main: Callable[..., None]
    summary: str
    usage: str
    passes_on: bool = False


def run_package(package: str, modules: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """Run a command of a package, the one that the first argument names.

    Args:
      package: its name, for `--help`.
      modules: the module of each command, which has it as `COMMAND`; under "" that of the command
        without a name, if there is one.
      argv: arguments without the program's name; those of the process by default.

    Returns:
      The exit code, as `run` gives it.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    named = {name: module for name, module in modules.items() if name}
    if args and args[0] in named:
        return run(_load(named[args[0]]), args[1:])
    if _HELP & set(args):
        print(_help(package, modules))
        return 0
    if "" not in modules:
        given = f"not {args[0]!r}" if args else "none was given"
        return _fail(f"give one command, {' or '.join(named)} ({given}); see --help")
    if named and args and not args[0].startswith("-"):
        return _fail(
            f"{args[0]!r} is no command of {package}, which are {' and '.join(named)}; everything "
            "else is given by flags"
        )
    return run(_load(modules[""]), args)


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Parse the flags of a command and do its work.

    Args:
      command: what to run.
      argv: arguments without the names of program and command; the process's by default.

    Returns:
      0 when it was done, 2 when the user has something to put right (one line on standard error
      says what), 130 when it was interrupted. Other exceptions are bugs and pass through.
    """
    _quieten_libraries()
    args = list(sys.argv[1:] if argv is None else argv)
    if _HELP & set(args):
        print(f"{command.usage.strip()}\n\nFlags:\n{flags.describe(command.config)}")
        return 0
    try:
        config, rest = parse(command, args)
        command.main(*([config, rest] if command.passes_on else [config]))
    except (absl_flags.Error, UserError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def parse(command: Command, args: Sequence[str]) -> tuple[Any, list[str]]:
    """The config that arguments describe, and the arguments that are no flags of it.

    Raises:
      absl.flags.Error, UserError: an argument is unknown or cannot be used, or one is missing.
    """
    values = flags.define(command.config)
    rest = values([command.usage.split()[0], *args], known_only=command.passes_on)[1:]
    if rest and not command.passes_on:
        raise UserError(f"unexpected argument {rest[0]!r}: everything is given by flags")
    return flags.config_of(command.config, values), rest


def one_line(text: str) -> str:
    """Text that may hold names of files, as one line that a terminal takes for nothing but text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def _fail(message: str) -> int:
    print("error: " + one_line(message), file=sys.stderr)
    return 2


def _load(module: str) -> Command:
    return importlib.import_module(module).COMMAND


def _help(package: str, modules: Mapping[str, str]) -> str:
    """The usage and flags of the command without a name, and a line for each other command."""
    loaded = {name: _load(module) for name, module in modules.items()}
    width = max(len(name) for name in loaded)
    lines = [f"  {name:<{width}}  {each.summary}" for name, each in loaded.items() if name]
    listed = f"Commands (python -m {package} COMMAND --help lists the flags of one):\n"
    parts = [listed + "\n".join(lines)] if lines else []
    if "" in loaded:
        parts.insert(0, loaded[""].usage.strip())
        parts.append(f"Flags:\n{flags.describe(loaded[''].config)}")
    return "\n\n".join(parts)


def _quieten_libraries() -> None:
    """Keep what libraries log off the user's terminal; our own warnings stay."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("ixi_tfds").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.ERROR)
