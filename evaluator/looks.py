"""Whether a scan looks unlike the scans that a model was trained on."""

import sys

from evaluator.volumes import Geometry
from ixi_tfds.images.look import look_of, unlike
from ixi_tfds.nifti import Volume
from ixi_tfds.system.errors import ScanError, UserError


def check_known(geometry: Geometry, source: str, *, strict: bool) -> None:
    """Warn that nothing tells how the training scans look, if so; `source` should have told.

    Raises:
      UserError: the check is strict.
    """
    if geometry.looks:
        return
    lacks = (
        f"{source} does not tell how its scans look, so a scan that is unlike them gets no warning"
    )
    if strict:
        raise UserError(f"--strict: {lacks}; make the dataset again with beam_preprocess")
    print(f"warning: {lacks}; make the dataset again with beam_preprocess", file=sys.stderr)


def differences(volume: Volume, geometry: Geometry, path: str, *, strict: bool) -> list[str] | None:
    """What differs between a scan and those of training; None if their looks are not known.

    Raises:
      ScanError: the scan looks unlike them, and the check is strict.
    """
    if not geometry.looks:
        return None
    found = unlike(look_of(volume), geometry.looks)
    if found and strict:
        raise ScanError("unlike_training", path, f"{'; '.join(found)} (--strict)")
    return found
