"""`--bids_filter`: which volumes of a BIDS folder are asked for.

The JSON files are those of `--bids-filter-file` in fMRIPrep and other BIDS apps: entities by the
long names of PyBIDS under the key `t1w`. null asks for volumes without the entity, "*" for volumes
with any value of it, a list for any of its values.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

Filter = Mapping[str, tuple[str | None, ...]]
"""The values that are asked for, by the long name of the entity."""

# fmt: off
LONG_NAMES = {
    "sub": "subject", "ses": "session", "sample": "sample", "task": "task", "acq": "acquisition",
    "ce": "ceagent", "trc": "tracer", "stain": "staining", "rec": "reconstruction",
    "dir": "direction", "run": "run", "mod": "modality", "echo": "echo",
    "flip": "flip", "inv": "inv", "mt": "mt", "part": "part",
    "proc": "proc", "hemi": "hemisphere", "space": "space", "split": "split", "chunk": "chunk",
    "res": "resolution", "den": "density", "label": "label", "desc": "desc",
}
# fmt: on
"""Long names of entities, which filters use, by the short names in file names."""

_OF_EVERY_FILE = ("datatype", "suffix", "extension")
_FORM = 'a JSON file such as {"t1w": {"session": "01"}}, or entities such as session=01,run=1'


@dataclasses.dataclass(frozen=True)
class BidsFlags:
    """Which volumes of a BIDS folder are read."""

    bids_filter: str | None = flag(
        "Which T1 volumes of a BIDS folder to read: session=01,run=1,acquisition=mprage, or a JSON "
        "file as for --bids-filter-file of fMRIPrep. suffix=UNIT1 reads MP2RAGE instead of T1w, "
        "ceagent=null,ceagent=* reads volumes with contrast agent, too.",
        None,
    )

    @property
    def asked(self) -> Filter:
        """The filter; empty without the flag. Raises what `read_filter` does."""
        return read_filter(self.bids_filter) if self.bids_filter else {}


def read_filter(text: str) -> Filter:
    """The filter in a JSON file, in a JSON text, or in entities such as `session=01,run=1`.

    An entity that is given twice asks for either value. `null` or nothing after "=" asks for
    volumes without the entity.

    Raises:
      UserError: it is none of these, has no key `t1w`, or names an unknown entity.
    """
    stripped = text.strip()
    if stripped.startswith("{"):
        return _from_json(text, stripped)
    if "=" not in stripped or storage.at(stripped).is_file():
        try:
            return _from_json(text, storage.at(stripped).read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            raise UserError(f"--bids_filter={text}: cannot be read; give {_FORM}") from error
    entities: dict[str, list[Any]] = {}
    for part in stripped.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--bids_filter={text}: {part!r} has no '='; give {_FORM}")
        given = None if value.strip() in ("", "null") else value
        entities.setdefault(name.strip(), []).append(given)
    return _checked(text, entities)


def as_text(asked: Filter) -> str:
    """The filter as JSON text for `read_filter`; equal filters give equal texts."""
    plain = {name: sorted(values, key=str) for name, values in asked.items()}
    return json.dumps({"t1w": plain}, sort_keys=True)


def matches(asked: Filter, entities: Mapping[str, str]) -> bool:
    """Whether a volume with these entities, by their long names, is asked for."""

    def fits(name: str, value: str | None) -> bool:
        if value is None or value == "*":
            return (name in entities) == (value == "*")
        return name in entities and label(name, entities[name]) == value

    return all(any(fits(name, value) for value in values) for name, values in asked.items())


def in_words(asked: Filter) -> str:
    """The filter as entities such as `session=01,run=1`, for messages."""
    return ",".join(f"{name}={value or 'null'}" for name, all in asked.items() for value in all)


def label(name: str, value: str) -> str:
    """A value as it is compared: without prefix such as `ses-`, numbers without leading zeros."""
    short = next((short for short, long in LONG_NAMES.items() if long == name), name)
    bare = value.strip().removeprefix(f"{short}-")
    if name == "suffix":
        return bare.lower()
    return bare.lstrip("0") or "0" if bare.isdecimal() else bare


def describe_values(found: Iterable[Mapping[str, str]], names: Iterable[str]) -> str:
    """Which values of some entities there are, in words, for a filter that matches nothing."""
    found = list(found)
    said = []
    for name in names:
        values = sorted({entities[name] for entities in found if name in entities})
        shown = [*values[:8], *(["..."] if len(values) > 8 else [])]
        if any(name not in entities for entities in found):
            shown.append("none")
        said.append(f"{name} {', '.join(shown)}")
    return "; ".join(said)


def _from_json(flag_text: str, text: str) -> Filter:
    try:
        queries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--bids_filter={flag_text}: is not JSON ({error}); give {_FORM}"
        ) from error
    queries = queries if isinstance(queries, dict) else {}
    mine = [query for name, query in queries.items() if name.lower() == "t1w"]
    if len(mine) != 1 or not isinstance(mine[0], dict):
        raise UserError(f'--bids_filter={flag_text}: has no object "t1w"; give {_FORM}')
    return _checked(flag_text, mine[0])


def _checked(text: str, entities: Mapping[str, Any]) -> Filter:
    """The filter of values as they are written, by long or short names."""
    asked: dict[str, tuple[str | None, ...]] = {}
    known = (*LONG_NAMES.values(), *_OF_EVERY_FILE)
    for name, given in entities.items():
        long = LONG_NAMES.get(name, name)
        if long not in known:
            raise UserError(
                f"--bids_filter={text}: {name!r} is no entity of BIDS; known are {', '.join(known)}"
            )
        values = given if isinstance(given, list) else [given]
        if not values or not all(value is None or type(value) in (str, int) for value in values):
            raise UserError(f"--bids_filter={text}: {name} has a value that is no text or number")
        asked[long] = tuple(v if v is None else label(long, str(v)) for v in values)
    return asked
