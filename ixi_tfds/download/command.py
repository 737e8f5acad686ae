"""`python -m ixi_tfds download`: fetch the published volumes of a cohort into a folder."""

import dataclasses
import shlex

from ixi_tfds import download
from ixi_tfds.cohorts import cohort_flag, find_cohort
from ixi_tfds.system import folders, storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class DownloadConfig:
    """Flags of `download`."""

    output_dir: str = flag("Folder for the volumes and the workbook.", path=True)
    cohort: str = cohort_flag()


def main(config: DownloadConfig) -> None:
    """Fetch and unpack the volumes, and print the next command."""
    cohort, folder = find_cohort(config.cohort), config.output_dir
    storage.check_local(folder, "output_dir")
    with folders.writing(folder, "output_dir"):
        volumes = download.download(cohort, folder)
    print(f"{len(volumes)} T1 volumes and the workbook of {cohort.title} are in {folder}")
    print(f"next: python -m beam_preprocess --source_dir={shlex.quote(folder)} --data_dir=datasets")


COMMAND = Command(
    config=DownloadConfig,
    main=main,
    summary="download the published T1 volumes and workbook of IXI (4.5 GB)",
    usage="""
python -m ixi_tfds download --output_dir=S

Fetches the T1 volumes and the workbook of IXI (4.5 GB; CC BY-SA 3.0,
https://brain-development.org/ixi-dataset) and unpacks them. It needs 9 GB of disk. Run it again
after an interruption: it resumes.
""",
)
