"""Frozen dataclasses to JSON and back.

Tuples are lists in JSON. A field whose value and default are None is left out, so that files of
earlier versions, which lack the field, stay the same when they are read and written.
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
    """Text or JSON values are not the expected document. The message does not name the file."""


def from_json(kind: type[Document], text: str | bytes) -> Document:
    """The document in a JSON text.

    Raises:
      DocumentError: it is not JSON, or fields are missing, unknown or of the wrong type.
    """
    try:
        # RecursionError: thousands of nested brackets.
        return from_plain(kind, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is not JSON: {error}") from error


def from_plain(kind: type[Document], values: Any) -> Document:
    """The document in JSON values.

    Raises:
      DocumentError: fields are missing, unknown or of the wrong type.
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
            """The fields in their order; `plain` puts the optional ones last."""
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
    """A value, checked to be of a plain type; cattrs alone would convert it."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _number(value: Any, kind: Any) -> int | float:
    """A value of a field of type `int | float`; unlike for `float`, an int stays an int."""
    return _exactly(value, int if isinstance(value, int) else float)


def _in_words(error: BaseException, kind: type | None) -> str:
    """An error in words; cattrs appends its place, such as "$.geometry.shape[2]"."""
    if isinstance(error, KeyError):
        return "lacks the field"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"has the unknown field {', '.join(sorted(error.extra_fields))}"
    if isinstance(error, UserError | ValueError):
        return f"has a value that cannot be used: {error}"
    return "has values of the wrong type"


_CONVERTER = _make_converter()
