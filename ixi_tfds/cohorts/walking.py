"""The files of a source folder: the volumes, and the images that are passed over.

Nothing here opens a volume. Of files whose names say nothing, a few in each folder are asked if
they are DICOM, and if one is, all of them.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence

from ixi_tfds.formats import READ_KINDS, conversion, images_in
from ixi_tfds.system import storage
from ixi_tfds.system.errors import ScanError, UserError
from ixi_tfds.system.files import is_litter

HIDDEN = "hidden image"
LINK = "link to a folder"

_ASKED = 8
"""So many files without extension in a folder are asked if they are DICOM."""


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """Images of one kind in a folder that are not read, or a link that is not followed.

    Attributes:
      kind: such as `DICOM`, `HIDDEN` or `LINK`.
      folder: that holds them; of a link, its own path.
      files: how many there are.
      detail: why they are passed over and what to do, for people.
    """

    kind: str
    folder: str
    files: int
    detail: str

    @property
    def error(self) -> ScanError:
        """The same as a refusal, for lists of refused files."""
        return ScanError("passed_over", self.folder, self.detail)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
      volumes: paths of the volumes, sorted.
      passed_over: images that are not read, ordered by folder and kind.
      links: paths of links to folders that were followed, sorted.
    """

    volumes: tuple[str, ...]
    passed_over: tuple[PassedOver, ...] = ()
    links: tuple[str, ...] = ()


def find_files(
    source_dir: str, kinds: Collection[str] = READ_KINDS, without: Collection[str] = ()
) -> Found:
    """The volumes in a folder at any depth, and the images there that are not read.

    Hidden files and folders are not read. A link to a folder is followed unless that folder is
    read already or holds the link, so that each folder is read once.

    Args:
      source_dir: the folder.
      kinds: the kinds of images that are read.
      without: names of folders that are not looked into, at any depth.

    Raises:
      UserError: a folder cannot be listed.
    """
    volumes: list[str] = []
    others: collections.Counter[tuple[str, str]] = collections.Counter()
    examples: dict[tuple[str, str], str] = {}
    tree = _Tree(storage.at(source_dir), without)
    for folder, names in tree.folders():
        for name, kind in _images(folder, names).items():
            path = str(storage.at(folder, name))
            if name.startswith(".") or folder in tree.hidden:
                kind = HIDDEN
            if kind in kinds:
                volumes.append(path)
            else:
                others[folder, kind] += 1
                examples[folder, kind] = min(path, examples.get((folder, kind), path))
    passed = [
        PassedOver(kind, folder, files, _detail(kind, folder, files, examples[folder, kind]))
        for (folder, kind), files in others.items()
    ]
    passed += [PassedOver(LINK, path, 1, f"is a link to {why}") for path, why in tree.left.items()]
    return Found(
        tuple(sorted(volumes)),
        tuple(sorted(passed, key=lambda one: (one.folder, one.kind))),
        tuple(sorted(tree.followed)),
    )


def by_kind(passed_over: Iterable[PassedOver]) -> dict[str, int]:
    """The number of files of each kind."""
    counts: collections.Counter[str] = collections.Counter()
    for one in passed_over:
        counts[one.kind] += one.files
    return dict(sorted(counts.items()))


class _Tree:
    """The folders below a root, each once; `hidden`, `followed` and `left` fill on the way.

    Attributes:
      hidden: paths of hidden folders, of which only the files in them are given.
      followed: paths of links to folders that were followed.
      left: what each other link leads to, by its path.
    """

    def __init__(self, root: pathlib.Path, without: Collection[str]) -> None:
        self.hidden: set[str] = set()
        self.followed: list[str] = []
        self.left: dict[str, str] = {}
        self._root = root
        self._without = without
        self._seen: set[pathlib.Path] = set()
        self._links: list[pathlib.Path] = []

    def folders(self) -> Iterator[tuple[str, list[str]]]:
        """Folders with the names of their files; real ones first, so that links change no path."""
        yield from self._under(self._root)
        while self._links:
            self._links.sort(reverse=True)
            link = self._links.pop()
            target = link.resolve()
            if target in self._seen:
                self.left[str(link)] = f"{target}, which is read already"
            elif target in self._root.resolve().parents or target in link.parent.resolve().parents:
                self.left[str(link)] = f"{target}, which holds the link"
            else:
                self.followed.append(str(link))
                yield from self._under(link)

    def _under(self, top: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
        for folder, subfolders, names in storage.walk(top, onerror=_complain):
            names = [name for name in names if not is_litter(name)]
            subfolders[:] = [
                name for name in subfolders if name not in self._without and not is_litter(name)
            ]
            here = storage.at(folder)
            if here.resolve() in self._seen:
                subfolders.clear()
                continue
            self._seen.add(here.resolve())
            below = [storage.at(folder, name) for name in subfolders if not name.startswith(".")]
            links = [path for path in below if not storage.is_remote(path) and path.is_symlink()]
            self._links += links
            hidden = [storage.at(folder, name) for name in subfolders if name.startswith(".")]
            subfolders[:] = [path.name for path in below if path not in links]
            yield folder, names
            yield from self._in_hidden(hidden)

    def _in_hidden(self, folders: Iterable[pathlib.Path]) -> Iterator[tuple[str, list[str]]]:
        for path in sorted(folders):
            for folder, _, names in storage.walk(path):
                self.hidden.add(folder)
                yield folder, [name for name in names if not is_litter(name)]
                break


def _complain(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot list this folder ({error.strerror})")


def _images(folder: str, names: Sequence[str]) -> dict[str, str]:
    """The kind of each image among the files of a folder."""
    kinds = dict(images_in(names))
    bare = sorted(name for name in names if not pathlib.PurePath(name).suffix.strip(".0123456789"))
    unknown = [name for name in bare if name not in kinds]
    few = unknown[:: max(1, len(unknown) // _ASKED)]
    if any(_is_dicom(storage.at(folder, name)) for name in few):
        mine = [name for name in unknown if _is_dicom(storage.at(folder, name))]
        kinds |= dict.fromkeys(mine, "DICOM")
    return kinds


def _is_dicom(path: pathlib.Path) -> bool:
    if storage.is_remote(path) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _detail(kind: str, folder: str, files: int, example: str) -> str:
    name = pathlib.PurePath(example).name
    counted = f"{files} {kind} file{'s' if files > 1 else ''}, such as {name}"
    if kind == HIDDEN:
        return f"{counted}: hidden files are not read"
    todo = conversion(kind, folder if kind == "DICOM" else example)
    return f"{counted}: not read; {todo}"
