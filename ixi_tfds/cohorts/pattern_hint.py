"""Which `--subject_pattern` tells people apart where names differ only in marks, as of visits."""

import re
from collections.abc import Callable, Mapping

_SEPARATORS = re.compile(r"[_. ]+|-(?![0-9]+(?:$|[-_. ]))")


def marks_between(one: str, other: str) -> list[str]:
    """The words that only one of two names has, such as `ses1` and `ses2`, in lower case."""
    first, second = (_SEPARATORS.split(name.lower()) for name in (one, other))
    return [
        word for word in dict.fromkeys([*first, *second]) if (word in first) != (word in second)
    ]


def find_pattern(
    words: list[str], people: Mapping[str, object], name: Callable[[str], Mapping[str, str]]
) -> str | None:
    """A pattern that tells people apart by what their names are without some marks.

    Args:
      words: the marks, as `marks_between` gives them; other numbers count as the same marks.
      people: something that is equal for two files if they show one person, by path.
      name: gives the person in each file by a pattern; files that it does not fit are left out.

    Returns:
      The first pattern that fits all files and finds these people; None if none does.
    """
    shapes = dict.fromkeys(re.sub("[0-9]+", "[0-9]+", re.escape(word)) for word in words if word)
    mark = rf"(?i:{'|'.join(shapes)})"
    t1 = r"(?:[-_. ]T1[wn]?)?"
    for pattern in (
        rf"^(?P<person>.+?)[-_. ]{mark}(?:[-_. ].*)?$",
        rf"^(?P<person>.+?)(?:[-_. ]{mark}(?:[-_. ].*)?|{t1})$",
        rf"^{mark}[-_. ](?P<person>.+?){t1}$",
        rf"(?:^|/)(?P<person>[^/]+?)(?:[-_. ]{mark})?/[^/]+$",
        rf"^(?P<person>[^/]+?)(?:[-_. ]{mark})?/",
    ):
        found = name(pattern)
        if found.keys() == people.keys() and _same_groups(found, people):
            return pattern
    return None


def _same_groups(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    pairs = {(one[key], other[key]) for key in one}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
