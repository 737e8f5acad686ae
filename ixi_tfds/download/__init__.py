"""Download the published volumes of a cohort."""

from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.download import fetch, unpack
from ixi_tfds.system.errors import DownloadError


def download(cohort: Cohort, output_dir: str) -> list[str]:
    """Fetch the files of a cohort into a folder and unpack its volumes there.

    Returns:
      The paths of the volumes, sorted.

    Raises:
      DownloadError: the cohort is not published; otherwise as `fetch_files` and `extract_volumes`.
    """
    if not cohort.published:
        raise DownloadError(f"{cohort.title} cannot be downloaded: name a folder of its volumes")
    archive = fetch.fetch_files(cohort.published, output_dir)
    return unpack.extract_volumes(archive, output_dir, cohort.volume_name)
