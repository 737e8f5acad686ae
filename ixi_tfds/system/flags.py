"""Flags from dataclasses: a field of a config declares its flag, default, help text and bounds.

A config is a frozen dataclass whose fields are made by `flag`. A config can contain other configs;
their flags are then flags of the outer config too.
"""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from ixi_tfds.system.errors import UserError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class _Flag:
    """The declaration of a flag; `kind` is the type of its value, or of its items if `many`."""

    help: str
    default: Any
    name: str = ""
    choices: Collection[str] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    only_with: str = ""
    unless: Callable[[Mapping[str, Any]], str] | None = None
    path: bool = False
    kind: type = str
    many: bool = False


def flag(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    name: str = "",
    choices: Collection[str] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    only_with: str = "",
    unless: Callable[[Mapping[str, Any]], str] | None = None,
    path: bool = False,
) -> Any:
    """A field of a config that is also a flag.

    The field's type is `str`, `int`, `float`, `bool`, `tuple[str, ...]` or `tuple[int, ...]` (items
    separated by commas), or one of these or None.

    Args:
      help: the text in `--help`.
      default: the value without the flag; a flag without a default is required.
      name: the flag's name, if it differs from the field's.
      choices: the allowed values, such as the keys of a table; empty allows all.
      least: the lowest allowed value; for tuples, of each item.
      most: the highest allowed value.
      above: allowed values are greater than this.
      below: allowed values are less than this.
      only_with: another flag and its value, such as "loss=mix", that this flag requires.
      unless: function of the values of all flags that tells why this one may not be given, "" if it
        may.
      path: the value, or each item, is a path; `~` at its start is the user's home.
    """
    made = _Flag(help, default, name, choices, least, most, above, below, only_with, unless, path)
    return dataclasses.field(default=default, kw_only=True, metadata={"flag": made})


def like(config: type, name: str, help: str = "") -> Any:
    """A field that repeats the flag `name` of another config, with another help text if given."""
    declared = flags_of(config)[name]
    made = dataclasses.replace(declared, help=help or declared.help)
    return dataclasses.field(default=made.default, kw_only=True, metadata={"flag": made})


def flags_of(config: type) -> dict[str, _Flag]:
    """The flags of a config and of the configs in it, by name, in the order of the fields."""
    return {found.name: found for _, found in _leaves(config)}


def define(config: type) -> flags.FlagValues:
    """The absl flags of a config, not parsed yet."""
    values = flags.FlagValues()
    for name, found in flags_of(config).items():
        default = None if found.default is dataclasses.MISSING else found.default
        if found.many and found.kind is str:
            flags.DEFINE_list(name, default, found.help, flag_values=values)
        elif found.many:
            shown = default and ",".join(map(str, default))
            parser, serializer = _Numbers(), _NumbersAsText()
            flags.DEFINE(parser, name, shown, found.help, values, serializer)
        else:
            kinds: dict[type, Callable[..., Any]] = {
                bool: flags.DEFINE_bool,
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
            }
            make = kinds.get(found.kind, flags.DEFINE_string)
            make(name, default, found.help, flag_values=values)
    return values


def config_of(config: type[Config], values: flags.FlagValues) -> Config:
    """The config with the values of parsed flags.

    Raises:
      UserError: a flag is missing, out of bounds, or given without the flag that it requires, or
        with one that it does not go with.
    """
    for name, found in flags_of(config).items():
        if found.default is dataclasses.MISSING and values[name].value in (None, "", []):
            raise UserError(f"--{name} is missing; see --help")
        other, _, wanted = found.only_with.partition("=")
        if other and values[name].present and values[other].value != wanted:
            raise UserError(f"--{name} goes with --{found.only_with} only")
    given = {name: values[name].value for name in flags_of(config)}
    for name, found in flags_of(config).items():
        if found.unless and values[name].present and (reason := found.unless(given)):
            raise UserError(f"--{name}: {reason}")
    return from_flags(config, given | _without_tilde(config, given))


def _without_tilde(config: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the flags for paths, with the user's home for `~`, which shells leave there.

    Raises:
      UserError: a path begins with `~`, and no such home is known.
    """
    paths: dict[str, Any] = {}
    for name, found in flags_of(config).items():
        if found.path and given[name]:
            items = [
                _at_home(name, item) for item in (given[name] if found.many else [given[name]])
            ]
            paths[name] = items if found.many else items[0]
    return paths


def _at_home(name: str, path: str) -> str:
    if not path.startswith("~"):
        return path
    try:
        return str(pathlib.Path(path).expanduser())
    except RuntimeError:
        raise UserError(f"--{name}={path}: there is no such home; ./{path} is a folder") from None


def from_flags(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A config from the values of its flags; the others keep their defaults."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass, as all are
        inner = typing.get_type_hints(config)[field.name]
        if dataclasses.is_dataclass(inner):
            given[field.name] = from_flags(inner, values)  # type: ignore[arg-type]
        elif "flag" in field.metadata:
            name = field.metadata["flag"].name or field.name
            if name in values:
                value = values[name]
                given[field.name] = tuple(value) if isinstance(value, list) else value
    return config(**given)


def defaults(config: type) -> dict[str, Any]:
    """The defaults of a config's flags, by name, where there is one."""
    found = {name: each.default for name, each in flags_of(config).items()}
    return {name: value for name, value in found.items() if value is not dataclasses.MISSING}


def as_flags(config: Any) -> dict[str, Any]:
    """The values of a config's flags, by name, in the order of the fields."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values |= as_flags(value)
        elif "flag" in field.metadata:
            values[field.metadata["flag"].name or field.name] = value
    return values


def in_force(config: Any) -> dict[str, Any]:
    """The values of a config's flags, by name, without those whose `only_with` is not met."""
    values = as_flags(config)
    wanted = {
        name: found.only_with.partition("=") for name, found in flags_of(type(config)).items()
    }
    return {
        name: value
        for name, value in values.items()
        if not wanted[name][0] or values[wanted[name][0]] == wanted[name][2]
    }


def as_lines(values: Mapping[str, Any]) -> list[str]:
    """Flags as the lines of a `--flagfile`."""
    lines = []
    for name, value in values.items():
        if isinstance(value, bool):
            lines.append(f"--{name}" if value else f"--no{name}")
        else:
            lines.append(f"--{name}={_shown(value)}")
    return lines


def check(config: Any) -> None:
    """Check the value of every flag of a config against its choices and bounds.

    Raises:
      UserError: a value is not allowed; the message names the first such flag.
    """
    values = as_flags(config)
    for name, found in flags_of(type(config)).items():
        value = values[name]
        if value is None:
            continue
        for item in value if found.many else (value,):
            wrong = _wrong(found, item)
            if wrong:
                raise UserError(f"--{name}={_shown(value)}: {wrong}")


def describe(config: type) -> str:
    """One line per flag, sorted by name, for `--help`."""
    lines = []
    for name, found in sorted(flags_of(config).items()):
        has_default = found.default not in (dataclasses.MISSING, None, (), "")
        choices = f" One of {', '.join(found.choices)}." if found.choices else ""
        default = f" (default {_shown(found.default)})" if has_default else ""
        lines.append(f"  --{name}: {' '.join(found.help.split())}{choices}{default}")
    return "\n".join(lines)


def _leaves(config: type) -> Iterator[tuple[str, _Flag]]:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _leaves(hint)  # type: ignore[arg-type]  # a type, since it is a hint
        elif "flag" in field.metadata:
            kind, many = _kind(hint)
            made = field.metadata["flag"]
            name = made.name or field.name
            yield name, dataclasses.replace(made, name=name, kind=kind, many=many)


def _kind(hint: Any) -> tuple[type, bool]:
    """The type of a flag's value or of its items, without None, and whether it has many items."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in hint.__args__ if part is not types.NoneType)
    many = typing.get_origin(hint) is tuple
    return (typing.get_args(hint)[0] if many else hint), many


def _wrong(found: _Flag, value: Any) -> str:
    """What is wrong with a value; "" if it is allowed."""
    if found.choices:
        return "" if value in found.choices else f"choose one of {', '.join(found.choices)}"
    if found.least is not None and found.most is not None:
        if not found.least <= value <= found.most:
            return f"must be between {_plain(found.least)} and {_plain(found.most)}"
    elif found.least is not None and not value >= found.least:
        return f"must be at least {_plain(found.least)}"
    elif found.most is not None and not value <= found.most:
        return f"must be at most {_plain(found.most)}"
    if found.above is not None and not value > found.above:
        return f"must be above {_plain(found.above)}"
    if found.below is not None and not value < found.below:
        return f"must be below {_plain(found.below)}"
    return ""


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


class _Numbers(flags.ArgumentParser[Sequence[int]]):
    """Parser of whole numbers separated by commas."""

    def parse(self, argument: Any) -> tuple[int, ...]:
        """The numbers as a tuple; empty text gives an empty tuple."""
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(int(part) for part in argument.split(",")) if argument else ()
        except ValueError as error:
            raise ValueError("give whole numbers with commas between them") from error


class _NumbersAsText(flags.ArgumentSerializer[Sequence[int]]):
    def serialize(self, value: Sequence[int]) -> str:
        return ",".join(map(str, value))
