"""Which files are images by their names: those that are read, and those that need converting.

Nothing here opens a file.
"""

import pathlib
import re
import shlex
from collections.abc import Collection, Mapping

NIFTI, PAIR, MGH, MINC = "NIfTI", "pair of .hdr and .img", "MGH", "MINC"
READ_KINDS = (NIFTI, PAIR, MGH, MINC)
"""Kinds of images that `nifti.read_volume` reads."""

READ_FORMATS = "NIfTI (.nii, .hdr with .img), Analyze (.hdr with .img), MGH (.mgz, .mgh), MINC"
"""The formats that are read, for messages."""

_EXTENSIONS = {
    NIFTI: (".nii", ".nii.gz"),
    # The header names the pair: one file, one volume.
    PAIR: (".hdr", ".hdr.gz"),
    MGH: (".mgz", ".mgh", ".mgh.gz"),
    MINC: (".mnc", ".mnc.gz"),
}
READ_EXTENSIONS = tuple(ending for endings in _EXTENSIONS.values() for ending in endings)
"""Ends of the names of volumes that are read, in lower case; of a pair that of its header."""

_PAIR_DATA = (".img", ".img.gz")
NO_HEADER = "image without its .hdr"
# fmt: off
_OTHERS = {
    "DICOM": (".dcm", ".dicom", ".ima"),
    "NRRD": (".nrrd", ".nrrd.gz", ".nhdr"),
    "MetaImage": (".mha", ".mhd"),
    "GIPL": (".gipl", ".gipl.gz"),
    "PAR/REC": (".par",),
    "AFNI": (".head",),
    "ECAT": (".v",),
    "MRtrix": (".mif", ".mif.gz", ".mih"),
    "BrainVoyager": (".vmr",),
    "Varian": (".fdf",),
    "TIFF": (".tif", ".tiff"),
    "NumPy": (".npy", ".npz"),
    "HDF5": (".h5", ".hdf5"),
    "NIfTI in another compression": (".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".nii.7z"),
}
# fmt: on
_DICOM_NAME = re.compile(r"([a-z]{2}\.)?\d+(\.\d+){6,}|dicomdir", re.IGNORECASE)
_STEM = re.compile(
    rf"({'|'.join(map(re.escape, sorted((*READ_EXTENSIONS, *_PAIR_DATA), key=len)[::-1]))})$",
    re.IGNORECASE,
)


def image_kind(path: str) -> str | None:
    """The kind of image that a file's name says; None if it says no image.

    One of `READ_KINDS` for volumes that are read; otherwise a name such as "DICOM". The data of a
    pair (`.img`) are `NO_HEADER`: see `images_in`, which knows the names beside it.
    """
    name = pathlib.PurePath(path).name.lower()
    for kinds in (_EXTENSIONS, _OTHERS):
        for kind, endings in kinds.items():
            if name.endswith(endings):
                return kind
    if name.endswith(_PAIR_DATA):
        return NO_HEADER
    return "DICOM" if _DICOM_NAME.fullmatch(name) else None


def images_in(names: Collection[str]) -> Mapping[str, str]:
    """The kind of each image among the names in one folder.

    An `.img` with its `.hdr` beside it is left out, because the header counts for both.
    """
    headers = {stem_of(name) for name in names if image_kind(name) == PAIR}
    kinds = {name: image_kind(name) for name in names}
    return {
        name: kind
        for name, kind in kinds.items()
        if kind and not (kind == NO_HEADER and stem_of(name) in headers)
    }


def stem_of(path: str) -> str:
    """A volume's file name without the ending of a format that is read."""
    return _STEM.sub("", pathlib.PurePath(path).name)


def conversion(kind: str, path: str) -> str:
    """What to do about an image of a kind that is not read, as the end of a message.

    Args:
      kind: as `image_kind` returns it.
      path: one such file, or for DICOM the folder that holds them.
    """
    if kind in ("DICOM", "PAR/REC"):
        folder = path if kind == "DICOM" else str(pathlib.PurePath(path).parent)
        return (
            "convert it (pip install dcm2niix): "
            f"mkdir -p nifti && dcm2niix -z y -f %i_%p_%s -o nifti {shlex.quote(folder)}"
        )
    if kind in ("NRRD", "MetaImage", "GIPL"):
        program = "import SimpleITK as s, sys; s.WriteImage(s.ReadImage(sys.argv[1]), sys.argv[2])"
        target = f"{_stem_of_other(path)}.nii.gz"
        files = f"{shlex.quote(path)} {shlex.quote(target)}"
        return f'convert it (pip install SimpleITK): python -c "{program}" {files}'
    if kind == NO_HEADER:
        return "its header, with the same name and .hdr, is missing"
    if kind == "NIfTI in another compression":
        return "unpack it, or compress it with gzip"
    return "convert it to NIfTI"


def _stem_of_other(path: str) -> str:
    """A path without the ending of a format that is not read."""
    endings = [ending for endings in _OTHERS.values() for ending in endings]
    longest = max((end for end in endings if path.lower().endswith(end)), key=len, default="")
    return path[: len(path) - len(longest)]
