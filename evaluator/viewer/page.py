"""The page: one HTML file with NiiVue, the volumes and everything else that it needs."""

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import nibabel as nib
import numpy as np

from evaluator.viewer import colours
from evaluator.viewer.shown import Shown, shrunk

NIIVUE = "0.69.0"

MOST_BYTES = 12_000_000
"""Largest size of a page; larger volumes are averaged to larger voxels until they fit."""

MIDDLE = 127
"""Stored value of an anomaly of 0; one of 1 times the limit is stored as twice that."""

UNSEEN, LESION = 1, 2
"""Bits of the marks."""

_STEP = 1.05


def niivue() -> bytes:
    """The vendored script of NiiVue, compressed by gzip.

    Raises:
      ValueError: the file is not the one whose checksum is beside it.
    """
    vendor = importlib.resources.files("evaluator.viewer").joinpath("vendor")
    packed = vendor.joinpath(f"niivue-{NIIVUE}.umd.js.gz").read_bytes()
    digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    if digest != vendor.joinpath("SHA256SUMS").read_text(encoding="ascii").split()[0]:
        raise ValueError(f"niivue-{NIIVUE}.umd.js.gz has another checksum than SHA256SUMS says")
    return packed


def render(
    shown: Shown,
    title: str,
    meaning: str,
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
) -> str:
    """The page of at most `MOST_BYTES`; all text is escaped, and nothing is loaded from elsewhere.

    The arguments are those of `write_view`.
    """
    script = niivue()
    room = MOST_BYTES - _encoded_size(script) - 100_000
    original, side = shown, min(shown.zooms)
    parts = _parts(shown)
    while (size := sum(_encoded_size(part) for part in parts.values())) > room:
        side = max(side * _STEP, side * 0.98 * (size / room) ** (1 / 3))
        shown = shrunk(original, side)
        parts = _parts(shown)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.from_string(_text("view.html")).render(
        title=title,
        meaning=meaning,
        facts=facts,
        warnings=warnings,
        style=_text("view.css"),
        scripts=[_text("marks.js"), _text("view.js")],
        parts={"niivue": script, **parts},
        shown=json.dumps(_described(shown)).replace("<", "\\u003c"),
        zooms=_as_mm(shown),
        averaged=None if shown is original else _as_mm(original),
        has_lesion=shown.lesion is not None,
        is_mark=shown.is_mark,
        has_unseen=not shown.seen.all(),
        share_unseen=f"{1 - shown.seen.mean():.1%}",
    )


def _parts(shown: Shown) -> dict[str, bytes]:
    """What the page holds of the volumes: two NIfTI files of 8 bits and the marks, compressed."""
    low, high = shown.levels
    slope = (high - low) / 255
    scan = np.rint(np.clip((shown.scan - low) / slope, 0, 255)).astype(np.uint8)
    share = np.clip(shown.anomaly / shown.limit, -1, 1)
    anomaly = np.rint((share + 1) * MIDDLE).astype(np.uint8)
    marks = np.where(shown.seen, 0, UNSEEN).astype(np.uint8)
    if shown.lesion is not None:
        marks |= np.where(shown.lesion, LESION, 0).astype(np.uint8)
    files = {
        "scan": _nifti(scan, shown.affine, slope, low),
        "anomaly": _nifti(anomaly, shown.affine, shown.limit / MIDDLE, -shown.limit),
        "marks": marks.tobytes(order="F"),
    }
    return {name: gzip.compress(content, 6, mtime=0) for name, content in files.items()}


def _nifti(voxels: np.ndarray, affine: np.ndarray, slope: float, inter: float) -> bytes:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_slope_inter(slope, inter)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _described(shown: Shown) -> dict[str, Any]:
    """What the page's script knows of the volumes."""
    return {
        "shape": shown.scan.shape,
        "affine": shown.affine.tolist(),
        "zooms": shown.zooms,
        "window": shown.window,
        "levels": shown.levels,
        "limit": shown.limit,
        "threshold": shown.threshold,
        "place": shown.place,
        "bright": colours.BRIGHT,
        "dark": colours.DARK,
    }


def _as_mm(shown: Shown) -> str:
    return " x ".join(f"{side:.3g}" for side in shown.zooms)


def _encoded_size(content: bytes) -> int:
    return len(content) * 4 // 3


def _text(name: str) -> str:
    file = importlib.resources.files("evaluator.viewer").joinpath(name)
    return file.read_text(encoding="utf-8")
