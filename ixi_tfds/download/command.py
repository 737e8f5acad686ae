"""`python -m ixi_tfds download`: the published volumes of a cohort, in a folder."""

import dataclasses
import shlex

from ixi_tfds import download
from ixi_tfds.cohorts import cohort_flag, find_cohort
from ixi_tfds.system import folders, storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class DownloadConfig:
    """What to download, and where to."""

    output_dir: str = flag("Folder for the volumes and the workbook.")
    cohort: str = cohort_flag()


def main(config: DownloadConfig) -> None:
    """Fetch and unpack the volumes, and say what comes next."""
    cohort = find_cohort(config.cohort)
    storage.check_local(config.output_dir, "output_dir")
    with folders.writing(config.output_dir, "output_dir"):
        volumes = download.download(cohort, config.output_dir)
    print(
        f"{len(volumes)} T1 volumes and the workbook of {cohort.title} are in {config.output_dir}"
    )
    print(
        f"next: python -m beam_preprocess --source_dir={shlex.quote(config.output_dir)} "
        "--data_dir=datasets"
    )


COMMAND = Command(
    config=DownloadConfig,
    main=main,
    summary="the published T1 volumes and workbook of IXI (4.5 GB)",
    usage="""
python -m ixi_tfds download --output_dir=S

Fetches the T1 volumes and the workbook of IXI (4.5 GB; CC BY-SA 3.0,
https://brain-development.org/ixi-dataset) and unpacks them. Takes 9 GB of disk; run it again to go
on after an interruption.
""",
)
