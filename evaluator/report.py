"""A page that a person reads: one HTML file with everything in it, of sections that are plain data.

Whoever has something to tell makes a `Section`; nothing but this module knows HTML.
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
      panels: PNG of each, under its label; a label is needed for more than one.
      slices: whether the panels are slices, which are shown small and their pixels enlarged;
        otherwise they are plots.
    """

    caption: str
    panels: Mapping[str, bytes]
    slices: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, then tables, then figures.

    Attributes:
      title: its headline.
      text: paragraphs above.
      tables: each under its caption (may be ""): a row a line, shown as the strings that its values
        have, without the index. A table of two columns is a list of facts: name and value.
      figures: below the tables.
      notes: paragraphs below, in smaller type.
    """

    title: str
    text: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as HTML that needs no other file, no network and no script.

    Everything is escaped: names and captions cannot bring in markup.

    Args:
      title: of the page.
      lead: paragraphs below it.
      sections: in order.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    template = importlib.resources.files("evaluator").joinpath("report.html")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        title=title, lead=lead, sections=sections
    )
