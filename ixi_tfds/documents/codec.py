"""Frozen dataclasses to JSON and back.

Tuples are lists in JSON. A field that is None is left out where its default is None, so that files
of earlier versions, which lack it, are read and written alike.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeVar

import cattrs
from cattrs import gen

from ixi_tfds.system.errors import UserError

Document = TypeVar("Document")


class DocumentError(UserError):
    """A file does not hold the document that it should; the message does not name the file."""


def from_json(kind: type[Document], text: str | bytes) -> Document:
    """The document that a text holds.

    Raises:
      DocumentError: it is no JSON, lacks fields, has unknown ones, or values of another type.
    """
    try:
        # RecursionError: brackets within brackets, thousands deep.
        return from_plain(kind, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is no JSON: {error}") from error


def from_plain(kind: type[Document], values: Any) -> Document:
    """The document that JSON values describe.

    Raises:
      DocumentError: fields are missing or unknown, or have values of another type.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except UserError:
        raise
    except Exception as error:  # cattrs collects errors of any kind
        wrong = cattrs.transform_error(error, format_exception=_in_words)
        raise DocumentError("; ".join(wrong)) from error


def to_plain(document: Any) -> Any:
    """A document as JSON values: dicts, lists, numbers, strings, booleans and None."""
    return _CONVERTER.unstructure(document)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(
        forbid_extra_keys=True, unstruct_collection_overrides={tuple: list}
    )

    def structure(kind: type) -> Any:
        return gen.make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def unstructure(kind: type) -> Any:
        absent: dict[str, Any] = {
            field.name: gen.override(omit_if_default=True)
            for field in dataclasses.fields(kind)
            if field.default is None
        }
        plain: Callable[[Any], Any] = gen.make_dict_unstructure_fn(kind, converter, **absent)
        names = [field.name for field in dataclasses.fields(kind)]

        def in_order(document: Any) -> dict[str, Any]:
            """The fields in their order; `plain` has those that may be left out at the end."""
            values = plain(document)
            return {name: values[name] for name in names if name in values}

        return in_order

    converter.register_structure_hook_factory(dataclasses.is_dataclass, structure)
    converter.register_unstructure_hook_factory(dataclasses.is_dataclass, unstructure)
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook(int | float, _number)
    return converter


def _exactly(value: Any, kind: type) -> Any:
    """A value of a plain type; cattrs alone would convert whatever it gets."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _number(value: Any, kind: Any) -> int | float:
    """A whole number stays one, which `_exactly` makes a float where a float is wanted."""
    return _exactly(value, int if isinstance(value, int) else float)


def _in_words(error: BaseException, kind: type | None) -> str:
    """What cattrs puts before the place of an error, such as "$.geometry.shape[2]"."""
    if isinstance(error, KeyError):
        return "lacks the field"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"has the unknown field {', '.join(sorted(error.extra_fields))}"
    if isinstance(error, UserError | ValueError):
        return f"has a value that cannot be used: {error}"
    return "has values of another kind"


_CONVERTER = _make_converter()
