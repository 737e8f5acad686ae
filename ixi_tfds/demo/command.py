"""`python -m ixi_tfds cohort`: write made-up heads and their workbook to a folder."""

import dataclasses
import shlex

from etils import epy

from ixi_tfds.system import flags, folders, storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.flags import flag

with epy.lazy_imports():
    from ixi_tfds.demo import cohort


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Flags of `cohort`."""

    output_dir: str = flag("Folder for the volumes and the workbook.", path=True)
    subjects: int = flag("Number of heads to make.", 24, least=1)
    seed: int = flag("Another seed gives other heads.", 0, least=0)
    brain_masks: str | None = flag("Folder for a mask of each brain.", None, path=True)

    def __post_init__(self) -> None:
        flags.check(self)


def main(config: DemoConfig) -> None:
    """Write the volumes, and print the next command."""
    folder, masks = config.output_dir, config.brain_masks
    storage.check_local(folder, "output_dir")
    if masks:
        storage.check_local(masks, "brain_masks")
    with folders.writing(folder, "output_dir"):
        cohort.write_cohort(
            folder, subjects=config.subjects, seed=config.seed, progress=True, brain_masks=masks
        )
    print(f"{config.subjects} made-up heads and their workbook are in {folder}")
    print(f"next: python -m beam_preprocess --source_dir={shlex.quote(folder)} --data_dir=datasets")


COMMAND = Command(
    config=DemoConfig,
    main=main,
    summary="make up heads and their workbook, for trying out the project",
    usage="python -m ixi_tfds cohort --output_dir=S [--subjects=24] [--seed=0] [--brain_masks=M]",
)
