"""The model that Keras trains: augmentation, network, loss and metrics."""

from collections.abc import Callable, Mapping

import tensorflow as tf
from tensorflow import keras

from ixi_tfds.images import metrics
from ixi_tfds.images.scaling import to_unit
from trainer import augmentation, tasks
from trainer.models import networks


class Autoencoder(keras.Model):
    """Learns to reconstruct the clean slice from a corrupted one.

    Its batches come from `data`: `image` uint8 [B, H, W, 1] and `index` int64 [B], which is -1 for
    the black rows that complete a batch. Cast, corruption, network and loss run in the replica's
    step, on its device.

    Validation reports `loss`, `psnr` and `ssim` on clean inputs; with `augment_validation` also
    `loss_augmented`, on inputs that are corrupted in the same way in every epoch. PSNR and SSIM
    are those of the grey reconstruction in [0, 1], which the exported model gives. Training
    reports PSNR only, because SSIM would cost as much time as a layer.

    Args:
      network: reconstructs slices [B, H, W, 1] as [B, H, W, C].
      loss: one of `losses`, with one value for each image.
      batch_size: size of the global batch.
      seed: seed of the augmentation.
      augment: corruptions of the training inputs; None leaves them clean.
      augment_validation: also corrupt validation inputs, by `augment`.
      task: what is learned; any but that of the thesis replaces loss and augmentation, takes
        batches with `mask` uint8 [B, H, W, 1], and damages validation inputs, too, in the same way
        in every epoch.
      place: of the slices; needed by those tasks.
    """

    def __init__(
        self,
        network: keras.Model,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        *,
        batch_size: int,
        seed: int,
        augment: augmentation.AugmentationConfig | None,
        augment_validation: bool = False,
        task: tasks.Task = tasks.TASKS["reconstruct"],
        place: tasks.Place | None = None,
    ) -> None:
        # Keras would round the slices to 16 bits; the network's own layers cast what they compute.
        super().__init__(autocast=False)
        # The results of a step are already means over all replicas; Keras would sum over workers.
        self.distribute_reduction_method = "first"
        self.network = network
        self.loss_of = loss
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.task, self.place = task, place
        self.augments_validation = augment_validation and augment is not None
        names = ["loss", "psnr", "ssim"] + ["loss_augmented"] * self.augments_validation
        self.means = {name: keras.metrics.Mean(name) for name in names}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Running means; Keras resets them at the start of each epoch and validation."""
        return list(self.means.values())

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Reconstructions of slices in [0, 1]."""
        return self.network(inputs, training=training)

    def corrupt(self, images: tf.Tensor, index: tf.Tensor, seed: int) -> tf.Tensor:
        """Corrupted images; the images themselves without augmentation."""
        if self.augment is None:
            return images
        return augmentation.augment(
            images, index, config=self.augment, seed=seed, batch_size=self.batch_size
        )

    def losses_of(self, clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
        """One value for each image, over all channels of the network."""
        return self.loss_of(networks.repeat_grey(clean, reconstruction.shape[-1]), reconstruction)

    def harmed(self, data: Mapping[str, tf.Tensor], seed: int, *, vary: bool) -> tasks.Example:
        """The example that the task makes of a batch."""
        assert self.place
        index = tf.maximum(data["index"], 0)
        uniform = augmentation.uniform_of_rows(index, seed=seed, batch_size=self.batch_size)
        masks = tf.cast(data["mask"], tf.float32)
        clean = to_unit(data["image"])
        return tasks.make_example(self.task, clean, masks, uniform, self.place, vary=vary)

    def grey_of(self, result: tf.Tensor) -> tf.Tensor:
        """The grey slices in a result of the network."""
        return networks.to_grey(result[..., :-1] if self.task.marks else result)

    def train_step(self, data: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on a replica's share of a global batch."""
        if self.task.harm:
            example = self.harmed(data, self.seed, vary=True)
            clean, corrupted = example.clean, example.inputs
        else:
            clean = to_unit(data["image"])
            corrupted = self.corrupt(clean, data["index"], self.seed)
        with tf.GradientTape() as tape:
            reconstruction = self(corrupted, training=True)
            if self.task.losses:
                losses = self.task.losses(example, reconstruction)
            else:
                losses = self.losses_of(clean, reconstruction)
            # Replicas' gradients are summed, so each divides by the global batch.
            total = tf.nn.compute_average_loss(losses, global_batch_size=self.batch_size)
            scaled = self._scale(total)
        variables = self.network.trainable_variables
        gradients = self._unscale(tape.gradient(scaled, variables))
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.means["loss"].update_state(losses)
        self.means["psnr"].update_state(metrics.psnr(clean, self.grey_of(reconstruction)))
        return {name: self.means[name].result() for name in ("loss", "psnr")}

    def test_step(self, data: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Losses and metrics of a replica's share of a validation batch."""
        counts = tf.cast(data["index"] >= 0, tf.float32)
        if self.task.harm and self.task.losses:
            example = self.harmed(data, self.seed + 1, vary=False)
            clean = example.clean
            reconstruction = self(example.inputs, training=False)
            losses = self.task.losses(example, reconstruction)
        else:
            clean = to_unit(data["image"])
            reconstruction = self(clean, training=False)
            losses = self.losses_of(clean, reconstruction)
        grey = self.grey_of(reconstruction)
        self.means["loss"].update_state(losses, counts)
        self.means["psnr"].update_state(metrics.psnr(clean, grey), counts)
        self.means["ssim"].update_state(metrics.ssim(clean, grey), counts)
        if self.augments_validation:
            # Another seed: validation must not repeat the corruptions of the first epoch.
            corrupted = self.corrupt(clean, data["index"], self.seed + 1)
            losses = self.losses_of(clean, self(corrupted, training=False))
            self.means["loss_augmented"].update_state(losses, counts)
        return {name: mean.result() for name, mean in self.means.items()}

    def _scale(self, loss: tf.Tensor) -> tf.Tensor:
        return self.optimizer.get_scaled_loss(loss) if self._scales() else loss

    def _unscale(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        return self.optimizer.get_unscaled_gradients(gradients) if self._scales() else gradients

    def _scales(self) -> bool:
        """Whether the optimizer scales losses; in float16 gradients vanish if it does not."""
        scales = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)
        if keras.mixed_precision.global_policy().compute_dtype == "float16" and not scales:
            raise TypeError("float16 needs a LossScaleOptimizer")
        return scales
