"""The TFDS builders of the cohorts: `import ixi_tfds; tfds.load("ixi_t1/thesis")`.

A builder downloads the cohort, or reads the folder of volumes given as TFDS's `manual_dir`. It
writes the same slices as the Beam job, in a single process. The Beam job is faster for a whole
cohort, and the builder reads its datasets too.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tqdm import tqdm

from ixi_tfds import download
from ixi_tfds.cohorts import COHORTS, DEFAULT
from ixi_tfds.cohorts.catalog import Scan, find_scans
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.config import CONFIGS, VERSION, SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.features import slice_features
from ixi_tfds.formats import READ_FORMATS
from ixi_tfds.images.look import Look, look_of
from ixi_tfds.nifti import raise_fault_of_system, read_volume
from ixi_tfds.slices import MAX_REJECTED_FRACTION, pixels_digest, slices_of
from ixi_tfds.splits import SPLITS, assign_splits
from ixi_tfds.system.errors import ScanError, UserError


class SliceBuilderConfig(tfds.core.BuilderConfig):
    """A `SliceConfig` in the form that TFDS needs."""

    def __init__(self, slices: SliceConfig) -> None:
        super().__init__(name=slices.name, version=VERSION, description=slices.description)
        self.slices = slices


class SliceBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]  # TFDS has no types
):
    """Builder of a cohort's datasets, with one config per geometry and scaling.

    Attributes:
      cohort: the cohort of the datasets.
      max_rejected_fraction: the build stops when a larger share of volumes is refused.
      allow_same_bytes: keep volumes of different people that are copies of each other.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [SliceBuilderConfig(config) for config in CONFIGS.values()]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"A folder with the volumes ({READ_FORMATS}, in any subfolder) and the workbook. "
        "Without it, a published cohort is downloaded (IXI: 4.5 GB)."
    )
    cohort: ClassVar[Cohort]
    max_rejected_fraction = MAX_REJECTED_FRACTION
    allow_same_bytes = False

    @property
    def slices(self) -> SliceConfig:
        """The geometry and scaling of this builder's config."""
        return self.builder_config.slices

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=slice_features(self.slices.size, brain=self.slices.scaling == "tissue"),
            description=self.cohort.description,
            citation=self.cohort.citation,
            homepage=self.cohort.homepage,
            supervised_keys=("image", "image"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        if self.slices.scaling == "tissue":
            raise UserError(
                f"{self.name}/{self.slices.name}: TFDS makes no datasets of brains, only "
                "python -m beam_preprocess does, which finds the masks and writes moved copies; "
                "TFDS then reads them"
            )
        try:
            source_dir = str(dl_manager.manual_dir)
        except AssertionError:
            source_dir = str(dl_manager.download_dir / self.cohort.title.lower())
            download.download(self.cohort, source_dir)
        scans = find_scans(source_dir, self.cohort).scans
        splits = assign_splits(scans, read_roster(self.cohort.roster))
        self._volumes = len(scans)
        return {
            split: self._generate_examples([s for s in scans if splits[s.subject] == split])
            for split in SPLITS
            if split in splits.values()
        }

    def _generate_examples(self, scans: list[Scan]) -> Iterator[tuple[str, dict[str, Any]]]:
        for person in scans:
            for scan in person.candidates:
                try:
                    volume = read_volume(scan.path)
                    examples = list(slices_of(scan, self.slices, volume))
                except ScanError as error:
                    raise_fault_of_system(error)
                    tqdm.write(f"refused: {error}", file=sys.stderr)
                    refused = error
                    continue
                self._check_copy(scan, pixels_digest(fields["image"] for _, fields in examples))
                yield from examples
                self._geometries.append((volume.voxels.shape, volume.zooms))
                self._looks.append(look_of(volume))
                break
            else:
                self._leave_out(refused)

    def _check_copy(self, scan: Scan, pixels: str) -> None:
        """Stop at a volume whose slices are those of another, as the Beam job does."""
        other = self._paths.setdefault(pixels, scan.path)
        if other != scan.path and not self.allow_same_bytes:
            raise UserError(
                f"{other} and {scan.path} are copies, the same voxels for two people: remove one "
                "of them, or set the builder's allow_same_bytes to keep both"
            )

    def _leave_out(self, error: ScanError) -> None:
        """Go on without a person, as the Beam job does, unless too many are refused."""
        self._refused += 1
        if self._refused > self.max_rejected_fraction * self._volumes:
            raise UserError(
                f"{self._refused} of {self._volumes} volumes were refused, more than the "
                f"builder's max_rejected_fraction={self.max_rejected_fraction}; the last one: "
                f"{error}"
            ) from error

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        """Write the shards, and the manifest that the trainer and the evaluator read."""
        self._geometries: list[tuple[Sequence[int], Sequence[float]]] = []
        self._looks: list[Look] = []
        self._refused = 0
        self._paths: dict[str, str] = {}
        super()._download_and_prepare(dl_manager, download_config)
        folder = pathlib.Path(self.data_dir)
        made = manifest.of_shards(folder, self.slices, self._geometries, self._looks)
        manifest.write(folder, made)


@functools.cache
def builder_class(cohort: Cohort) -> type[SliceBuilder]:
    """The builder of a cohort; TFDS registers it under the cohort's name."""
    title = "".join(word.capitalize() for word in cohort.name.split("_"))
    fields = {"name": cohort.name, "cohort": cohort, "__module__": __name__}
    return type(title, (SliceBuilder,), fields)


for _cohort in COHORTS.values():
    builder_class(_cohort)
IxiT1 = builder_class(DEFAULT)


def builder_for(config: SliceConfig, data_dir: str, cohort: Cohort = DEFAULT) -> SliceBuilder:
    """The builder of any config, also of brains; `data_dir` is the root of all datasets."""
    # Neither features nor description depend on copies.
    known = dataclasses.replace(config, copies=None) == CONFIGS.get(config.name)
    given = config.name if known else SliceBuilderConfig(config)
    return builder_class(cohort)(config=given, data_dir=data_dir)
