"""Documents to JSON and back."""

import dataclasses
import json
import re

import pytest

from ixi_tfds.config import THESIS, SliceConfig
from ixi_tfds.documents import codec


@dataclasses.dataclass(frozen=True)
class Sides:
    shape: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Document:
    version: str
    config: SliceConfig
    shards: dict[str, str]
    sides: Sides | None = None
    digest: str | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    parts: tuple[Sides, ...] = ()


ONE = Sides((1.0, 2.0, 3.0))
WHOLE = Document("1", THESIS, {"a": "b"}, ONE, "d", {"x": 1}, (ONE,))


@pytest.mark.parametrize("document", [WHOLE, Document("1", THESIS, {})])
def test_a_document_comes_back_from_json_as_it_was(document):
    text = json.dumps(codec.to_plain(document))
    assert codec.from_json(Document, text) == document


def test_optional_fields_without_a_value_are_left_out():
    plain = codec.to_plain(Document("1", THESIS, {}))
    assert "sides" not in plain and "digest" not in plain
    assert list(codec.to_plain(WHOLE)) == [field.name for field in dataclasses.fields(Document)]
    assert json.loads(json.dumps(plain))["config"]["size"] == [256, 256]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 3}, "3 is not of type str @ $.version"),
        ({"more": 1}, "has the unknown field more @ $"),
        ({"shards": None}, "@ $.shards"),
        ({"sides": {"shape": [1, 2]}}, "@ $.sides.shape"),
        ({"sides": {"shape": [1, 2, "x"]}}, "'x' is not of type float @ $.sides.shape[2]"),
        ({"counts": {"a": True}}, "True is not of type int @ $.counts['a']"),
        ({"counts": {"a": 1.0}}, "1.0 is not of type int @ $.counts['a']"),
        ({"config": {"name": "x", "size": [0, 2]}}, "both sides must be between 1 and 4096"),
        ({"parts": [{}]}, "lacks the field @ $.parts[0].shape"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, message):
    plain = json.loads(json.dumps(codec.to_plain(WHOLE))) | change
    with pytest.raises(codec.DocumentError, match=re.escape(message)) as caught:
        codec.from_plain(Document, plain)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", '"x"', b"\xff"])
def test_other_text_is_refused(text):
    with pytest.raises(codec.DocumentError):
        codec.from_json(Document, text)


def test_missing_fields_are_named():
    with pytest.raises(codec.DocumentError, match=r"lacks the field @ \$\.version"):
        codec.from_plain(Document, {"config": {"name": "x"}, "shards": {}})
