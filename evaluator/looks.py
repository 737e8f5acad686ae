"""Whether a scan looks unlike the scans that a model was trained on."""

from evaluator.volumes import Geometry
from ixi_tfds.images.look import TRAINING_HEADS, look_of, unlike
from ixi_tfds.nifti import Volume
from ixi_tfds.system.errors import ScanError, UserError


def check_known(
    geometry: Geometry, source: str, *, strict: bool, heads: str = TRAINING_HEADS
) -> None:
    """Say so if nothing tells how `heads` look; `source` should have told.

    Raises:
      UserError: the check is strict.
    """
    if geometry.looks:
        return
    lacks = f"{source} does not tell how its scans look"
    if strict:
        raise UserError(f"--strict: {lacks}; make the dataset again with beam_preprocess")
    print(f"not checked whether scans are unlike {heads}: {lacks}")


def differences(
    volume: Volume, geometry: Geometry, path: str, *, strict: bool, heads: str = TRAINING_HEADS
) -> list[str] | None:
    """What differs between a scan and `heads`; None if their looks are not known.

    Raises:
      ScanError: the scan looks unlike them, and the check is strict.
    """
    if not geometry.looks:
        return None
    found = unlike(look_of(volume), geometry.looks, heads)
    if found and strict:
        raise ScanError("unlike_training", path, f"{'; '.join(found)} (--strict)")
    return found
