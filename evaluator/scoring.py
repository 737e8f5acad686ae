"""Scores of a SavedModel on a split: one row a slice, in memory that does not grow with images."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from evaluator import bundle
from ixi_tfds import datasets, integrity
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.errors import DatasetError, UserError
from ixi_tfds.features import slice_key

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class Score:
    """What one slice scored.

    Attributes:
      model: name of the model that reconstructed it.
      key: name of the slice, such as `IXI002/052`.
      subject: id of the person.
      site: hospital; "" where unknown.
      sex: "female", "male" or "unknown".
      age: years, NaN where unknown.
      slice_index: place along the volume's right axis, from 0.
      psnr: dB, at most `metrics.PSNR_CAP`.
      ssim: -1 to 1.
      ms_ssim: 0 to 1, of as many scales as `metrics.ms_ssim_scales` says.
      mae: mean absolute error, in units of the slice's range.
    """

    model: str
    key: str
    subject: str
    site: str
    sex: str
    age: float
    slice_index: int
    psnr: float
    ssim: float
    ms_ssim: float
    mae: float


@dataclasses.dataclass(frozen=True)
class Model:
    """A SavedModel, known by nothing but its files and its signature.

    Attributes:
      name: what tells it from the other models, such as `small_resnet/1`.
      folder: of the SavedModel.
      sha256: digest of graph and weights, so that two exports can be told apart.
      card: `model_card.json` of the export, empty where it has none.
      reconstruct: float32 [B, H, W, 1] in [0, 1] to the reconstruction, of the same shape.
      size: (height, width) it takes; None on a side where any will do.
      raw: the signature `raw`, which takes and gives scanner units; None where it has none.
    """

    name: str
    folder: pathlib.Path
    sha256: str
    card: dict[str, Any]
    reconstruct: Callable[[Any], Any]
    size: tuple[int | None, int | None]
    raw: Callable[..., dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a dataset on disk.

    Attributes:
      dataset: name under the data folder, such as `ixi_t1/thesis`.
      version: version of the dataset.
      name: name of the split.
      fingerprint: of the whole dataset, from `manifest.json`.
      size: (height, width) of its slices.
      slices: number of slices.
      builder: the TFDS builder that reads it.
    """

    dataset: str
    version: str
    name: str
    fingerprint: str
    size: tuple[int, int]
    slices: int
    builder: tfds.core.DatasetBuilder


def load_model(path: pathlib.Path, *, allow_changed_model: bool = False) -> Model:
    """Load a SavedModel from its version folder, or the highest version in a folder of versions.

    Args:
      path: of either.
      allow_changed_model: take a model whose files are not those that its card names.

    Raises:
      UserError: there is no SavedModel, it is not the one of its card, cannot be loaded, or lacks
        the signature.
    """
    import tensorflow as tf

    folder = _version_folder(path)
    digest, card = bundle.check_model(folder, allow_changed_model=allow_changed_model)
    try:
        loaded = tf.saved_model.load(str(folder))
    # TensorFlow raises whatever a broken graph leads it to; none of it is a bug of ours.
    except Exception as error:
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"--saved_model={path}: cannot be loaded: {said}") from error
    signature = loaded.signatures.get(SIGNATURE)
    inputs = signature.structured_input_signature[1] if signature else {}
    if set(inputs) != {"slices"} or "reconstruction" not in signature.structured_outputs:
        raise UserError(
            f"--saved_model={path}: has no signature {SIGNATURE!r} from `slices` to "
            "`reconstruction`; export it with python -m trainer"
        )
    takes, gives = inputs["slices"], signature.structured_outputs["reconstruction"]
    for spec in (takes, gives):
        if spec.dtype != tf.float32 or not spec.shape.is_compatible_with((None, None, None, 1)):
            raise UserError(
                f"--saved_model={path}: takes {takes.dtype.name} {takes.shape} and gives "
                f"{gives.dtype.name} {gives.shape}, not grey float32 slices [B, H, W, 1]"
            )

    def reconstruct(slices: Any) -> Any:
        # The signature's function lives only as long as the object it was loaded with.
        return loaded.signatures[SIGNATURE](slices=slices)["reconstruction"]

    def raw(**inputs: Any) -> dict[str, Any]:
        return loaded.signatures["raw"](**inputs)

    name = f"{folder.parent.name}/{folder.name}" if folder.name.isdigit() else folder.name
    size = tuple(takes.shape[1:3])
    given = raw if "raw" in loaded.signatures else None
    return Model(name, folder, digest, card, reconstruct, size, given)


def load_models(paths: Sequence[pathlib.Path], *, allow_changed_model: bool = False) -> list[Model]:
    """Load several models, with names that tell them apart; the arguments are `load_model`'s.

    Raises:
      UserError: as `load_model` does, or the same one is given twice.
    """
    models = [load_model(path, allow_changed_model=allow_changed_model) for path in paths]
    folders = [model.folder for model in models]
    for path, folder in zip(paths, folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(f"--saved_model={path}: is named twice")
    names = tell_apart([model.name for model in models], folders)
    return [dataclasses.replace(m, name=name) for m, name in zip(models, names, strict=True)]


def tell_apart(names: Sequence[str], folders: Sequence[pathlib.Path]) -> list[str]:
    """The names if they all differ, else the last parts of the paths that do: often, the runs'."""
    if len(set(names)) == len(names):
        return list(names)
    backwards = [folder.parts[::-1] for folder in folders]
    for parts in zip(*backwards, strict=False):
        if len(set(parts)) == len(parts):
            return list(parts)
    return [str(folder) for folder in folders]


def _version_folder(path: pathlib.Path) -> pathlib.Path:
    path = path.resolve()
    if (path / "saved_model.pb").is_file():
        return path
    versions = [
        found.parent for found in path.glob("*/saved_model.pb") if found.parent.name.isdigit()
    ]
    if not versions:
        raise UserError(
            f"--saved_model={path}: no SavedModel there; name the folder that holds "
            "saved_model.pb, or the one above it"
        )
    return max(versions, key=lambda folder: int(folder.name))


def open_split(data_dir: pathlib.Path, dataset: str, name: str, verify: str = "full") -> Split:
    """Open a split of the highest version in `data_dir/dataset`.

    Args:
      data_dir: root of the datasets.
      dataset: name and config within it.
      name: of the split.
      verify: how much of it to check, one of `integrity.CHECKS`.

    Raises:
      DatasetError: there is no such dataset, it has no such split, or what is to be read is
        damaged.
    """
    folder = datasets.find_dataset(data_dir, dataset)
    manifest = manifests.read(folder)
    integrity.check_dataset(folder, manifest, (name,), verify)
    builder = datasets.open_builder(folder)
    splits = builder.info.splits
    if name not in splits:
        raise DatasetError(f"--split={name}: {folder} has {', '.join(sorted(splits))}")
    height, width, _ = builder.info.features["image"].shape
    slices = splits[name].num_examples
    return Split(dataset, folder.name, name, manifest.fingerprint, (height, width), slices, builder)


def check_fit(model: Model, split: Split, *, allow_other_preprocessing: bool = False) -> None:
    """Refuse a model that takes slices of another size, or knows those of another preprocessing.

    Raises:
      UserError: it does.
    """
    bundle.check_preprocessing(
        model.card,
        model=model.name,
        slices=split.dataset,
        version=split.version,
        allowed=allow_other_preprocessing,
    )
    for takes, has in zip(model.size, split.size, strict=True):
        if takes not in (None, has):
            raise UserError(
                f"the model {model.name} takes slices of {model.size[0]}x{model.size[1]}, and "
                f"those of {split.dataset} are {split.size[0]}x{split.size[1]}; choose the dataset "
                "that it was trained on by --dataset"
            )


def score_split(model: Model, split: Split, *, batch_size: int) -> list[Score]:
    """Score every slice of a split, in the order of their keys.

    The reconstruction is judged as the model gives it, without clipping.

    Raises:
      UserError: the model takes slices of another size, or gives values that are not finite.
    """
    import tensorflow as tf

    from evaluator import metrics

    @tf.function(input_signature=[tf.TensorSpec((None, *split.size, 1), tf.uint8)])
    def judge(images: tf.Tensor) -> tf.Tensor:
        slices = tf.cast(images, tf.float32) / 255.0
        reconstruction = tf.ensure_shape(model.reconstruct(slices), slices.shape)
        judges = (metrics.psnr, metrics.ssim, metrics.ms_ssim, metrics.mae)
        return tf.stack([judged_by(slices, reconstruction) for judged_by in judges])

    scores: list[Score] = []
    with tqdm.tqdm(
        total=split.slices, unit="slice", desc=f"scoring {model.name}", disable=None
    ) as progress:
        for batch in read_batches(split, batch_size):
            values = judge(batch["image"]).numpy()
            scores += _rows(model, split, batch, values)
            progress.update(values.shape[1])
    return sorted(scores, key=lambda score: score.key)


def read_batches(split: Split, batch_size: int) -> Iterator[dict[str, Any]]:
    """Batches of a split as TFDS decodes them, always in the same order, none kept in memory.

    Raises:
      DatasetError: a record is damaged.
    """
    import tensorflow_datasets as tfds

    dataset = split.builder.as_dataset(
        split=split.name,
        batch_size=batch_size,
        shuffle_files=False,
        # A small split would be kept in memory whole.
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    with integrity.user_error_if_damaged(split.dataset):
        yield from dataset.prefetch(2)


def _rows(model: Model, split: Split, batch: dict[str, Any], values: np.ndarray) -> Iterator[Score]:
    fields = {
        name: batch[name].numpy() for name in ("subject", "site", "sex", "age", "slice_index")
    }
    sex_name = split.builder.info.features["sex"].int2str
    for place, (psnr, ssim, ms_ssim, mae) in enumerate(values.T.tolist()):
        subject = fields["subject"][place].decode()
        index = int(fields["slice_index"][place])
        key = slice_key(subject, index)
        if not np.isfinite([psnr, ssim, ms_ssim, mae]).all():
            raise UserError(f"{model.name} gives values that are not finite for slice {key}")
        yield Score(
            model=model.name,
            key=key,
            subject=subject,
            site=fields["site"][place].decode(),
            sex=sex_name(int(fields["sex"][place])),
            age=float(fields["age"][place]),
            slice_index=index,
            psnr=psnr,
            ssim=ssim,
            ms_ssim=ms_ssim,
            mae=mae,
        )


def batch_keys(batch: dict[str, Any]) -> list[str]:
    """The names of a batch's slices."""
    names = zip(batch["subject"].numpy(), batch["slice_index"].numpy(), strict=True)
    return [slice_key(subject.decode(), int(index)) for subject, index in names]


def read_slices(split: Split, keys: Collection[str], *, batch_size: int) -> dict[str, np.ndarray]:
    """Read a few slices again, float32 [H, W] in [0, 1] by key, in the order of `keys`."""
    found: dict[str, np.ndarray] = {}
    for batch in read_batches(split, batch_size):
        for place, key in enumerate(batch_keys(batch)):
            if key in keys:
                found[key] = batch["image"][place, ..., 0].numpy().astype(np.float32) / 255
        if len(found) == len(keys):
            break
    return {key: found[key] for key in keys}
