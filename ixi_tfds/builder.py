"""The TFDS builder: `import ixi_tfds; tfds.load("ixi_t1/thesis")`.

It downloads IXI itself, or takes a folder of volumes given as TFDS's `manual_dir`, and writes the
same slices as the Beam job, one process at a time. For a whole cohort the Beam job is the faster
way; what it writes is read by this builder as well.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from ixi_tfds.catalog import Scan, find_scans
from ixi_tfds.configs import CONFIGS, VERSION, SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.errors import ScanError, UserError
from ixi_tfds.features import slice_features
from ixi_tfds.nifti import raise_fault_of_system, read_volume
from ixi_tfds.slices import MAX_REJECTED_FRACTION, slices_of
from ixi_tfds.splits import SPLITS, assign_splits

_DESCRIPTION = """
Sagittal slices of T1-weighted brain MRI, split by person and stratified by sex and ethnicity: of
the IXI dataset (581 volumes of healthy people from three London hospitals, CC BY-SA 3.0) or of
volumes of your own, whose licence is theirs.
"""

_CITATION = """
@misc{ixi,
  title = {{IXI} Dataset: Information eXtraction from Images},
  howpublished = {Imperial College London, EPSRC GR/S21533/02},
  url = {https://brain-development.org/ixi-dataset/}
}
@mastersthesis{pardo2020study,
  author = {Pardo Gin{\\'e}s, A.},
  title = {Study of brain magnetic resonance images reconstruction through convolutional
           autoencoders},
  school = {Universitat Oberta de Catalunya},
  year = {2020}
}
"""


class SliceBuilderConfig(tfds.core.BuilderConfig):
    """A `SliceConfig` as TFDS wants it: with a name and a description."""

    def __init__(self, slices: SliceConfig) -> None:
        super().__init__(name=slices.name, version=VERSION, description=slices.description)
        self.slices = slices


class IxiT1(tfds.core.GeneratorBasedBuilder):
    """Builder of `ixi_t1`; one config a geometry and scaling.

    Attributes:
      max_rejected_fraction: share of refused volumes above which nothing is made.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [SliceBuilderConfig(config) for config in CONFIGS.values()]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Optional: a folder with the volumes (.nii.gz, any depth) and IXI.xls. "
        "Without one, IXI is downloaded (4.5 GB)."
    )
    max_rejected_fraction = MAX_REJECTED_FRACTION

    @property
    def slices(self) -> SliceConfig:
        """The geometry and scaling of this builder's config."""
        return self.builder_config.slices

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=slice_features(self.slices.size),
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://brain-development.org/ixi-dataset/",
            supervised_keys=("image", "image"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        # The package is imported by every preprocessing worker, none of which needs pandas.
        from ixi_tfds.demographics import find_workbook, read_demographics
        from ixi_tfds.download import download_ixi
        from ixi_tfds.unpack import extract_t1

        try:
            source_dir = str(dl_manager.manual_dir)
        except AssertionError:
            source_dir = str(dl_manager.download_dir / "ixi")
            extract_t1(download_ixi(source_dir), source_dir)
        workbook = find_workbook(source_dir)
        demographics = read_demographics(workbook) if workbook else None
        scans = find_scans(source_dir, demographics).scans
        splits = assign_splits(scans)
        self._volumes = len(scans)
        return {
            split: self._generate_examples([s for s in scans if splits[s.subject] == split])
            for split in SPLITS
            if split in splits.values()
        }

    def _generate_examples(self, scans: list[Scan]) -> Iterator[tuple[str, dict[str, Any]]]:
        for scan in scans:
            try:
                volume = read_volume(scan.path)
                yield from slices_of(scan, self.slices, volume)
                self._geometries.append((volume.voxels.shape, volume.zooms))
            except ScanError as error:
                raise_fault_of_system(error)
                self._refuse(error)

    def _refuse(self, error: ScanError) -> None:
        """Go on without a volume, as the Beam job does, unless too many are refused."""
        tqdm.write(f"refused: {error}", file=sys.stderr)
        self._refused += 1
        if self._refused > self.max_rejected_fraction * self._volumes:
            raise UserError(
                f"{self._refused} of {self._volumes} volumes were refused, the last one: {error}; "
                f"more than max_rejected_fraction={self.max_rejected_fraction}, an attribute of "
                "the builder"
            ) from error

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        """Write the shards, and the manifest that the trainer and the evaluator go by."""
        self._geometries: list[tuple[Sequence[int], Sequence[float]]] = []
        self._refused = 0
        super()._download_and_prepare(dl_manager, download_config)
        folder = pathlib.Path(self.data_dir)
        manifest.write(folder, manifest.of_shards(folder, self.slices, self._geometries))


def builder_for(config: SliceConfig, data_dir: str) -> IxiT1:
    """The builder of any config, named above or not; `data_dir` is the root of all datasets."""
    if config == CONFIGS.get(config.name):
        return IxiT1(config=config.name, data_dir=data_dir)
    return IxiT1(config=SliceBuilderConfig(config), data_dir=data_dir)
