"""A report as one self-contained HTML file, made of sections that are plain data.

Other modules make a `Section`; only this module makes HTML.
"""

import base64
import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence

import jinja2
import pandas as pd


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures that belong together, side by side where there is room.

    Attributes:
      caption: what they show.
      panels: a PNG file by its label; the label of a single panel may be "".
      slices: whether the panels are slices, whose pixels are enlarged, or plots.
    """

    caption: str
    panels: Mapping[str, bytes]
    slices: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, then tables, then figures.

    Attributes:
      title: headline.
      text: paragraphs above the tables.
      tables: tables by caption (may be ""). Values are shown as strings, the index is not shown. A
        table of two columns is a list of facts: name and value.
      figures: figures below the tables.
      notes: paragraphs below the figures, in smaller type.
      links: addresses of other pages by their label, below the paragraphs.
    """

    title: str
    text: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as HTML that needs no other file, no network and no script.

    All text is escaped. The paragraphs of `lead` follow the title.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    template = importlib.resources.files("evaluator").joinpath("report.html")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        title=title, lead=lead, sections=sections
    )
