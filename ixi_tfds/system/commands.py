"""Command lines `python -m PACKAGE [COMMAND] --flags`, their errors and exit codes."""

import dataclasses
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags
from absl import logging as absl_logging

from ixi_tfds.system import flags, surroundings
from ixi_tfds.system.errors import UserError

_HELP = {"-h", "--help", "-help", "--helpshort", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a package.

    Attributes:
      config: the dataclass of its flags; its fields are made by `flags.flag`.
      main: does the work. It takes a config and, with `passes_on`, the other arguments.
      summary: one line for the list of commands.
      usage: the text above the flags in `--help`; the first line is the command line.
      passes_on: pass arguments that are not flags of the config to `main` instead of refusing them.
    """

    config: type
    main: Callable[..., None]
    summary: str
    usage: str
    passes_on: bool = False


@surroundings.while_read
def run_package(package: str, modules: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """Run the command of a package that the first argument names.

    Args:
      package: the package's name, for `--help`.
      modules: the module of each command, by name; the module defines the command as `COMMAND`.
        The name "" is for the command without a name, if there is one.
      argv: arguments without the program's name; by default those of the process.

    Returns:
      The exit code, as from `run`.
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


@surroundings.while_read
def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Parse the flags of a command and do its work.

    Args:
      command: the command to run.
      argv: arguments without the names of program and command; by default those of the process.

    Returns:
      0 on success, 2 after an error that the user can fix (reported in one line on standard
      error), 130 after an interruption, 141 if the reader of the output has gone (`| head`). Other
      exceptions are bugs and pass through.
    """
    quieten_libraries()
    args = list(sys.argv[1:] if argv is None else argv)
    if _HELP & set(args):
        print(f"{command.usage.strip()}\n\nFlags:\n{flags.describe(command.config)}")
        return 0
    try:
        surroundings.check(args)
        config, rest = parse(command, args)
        command.main(*([config, rest] if command.passes_on else [config]))
    except (absl_flags.Error, UserError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def parse(command: Command, args: Sequence[str]) -> tuple[Any, list[str]]:
    """The config from the arguments, and the arguments that are not flags of it.

    Raises:
      absl.flags.Error, UserError: an argument is unknown, invalid or missing.
    """
    values = flags.define(command.config)
    rest = values([command.usage.split()[0], *args], known_only=command.passes_on)[1:]
    if rest and not command.passes_on:
        raise UserError(f"unexpected argument {rest[0]!r}: everything is given by flags")
    return flags.config_of(command.config, values), rest


def one_line(text: str) -> str:
    """Text as one line without control characters, which file names may contain."""
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


def quieten_libraries() -> None:
    """Silence the logs of libraries; our own warnings are still shown."""
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("ixi_tfds").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.ERROR)
