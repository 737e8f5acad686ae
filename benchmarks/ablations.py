"""The models of brains with one part changed: docs/lesions.md, "What each part gives".

Runs a command of the project, `trainer` and the like, after one of these changes:

- batch: batch normalization in the U-Net, instead of group normalization.
- stretched: the U-Net gets each slice divided by its brightest pixel, so that its input lies
  between 0 and 1 whatever the volume's scale is. What it gives is multiplied by it again.
- whole_head: what is outside the brain stays, on the brain's scale, as far as the box goes. Damage,
  losses, lesions and scores remain in the brain. All commands need this change, beam_preprocess
  and the evaluator's, too; without --direct_running_mode, for processes of Beam would lack it.

    .venv/bin/python benchmarks/ablations.py batch trainer \\
      --flagfile=trainer/recipes/lesions/repair.flags --data_dir=D \\
      --dataset=ixi_t1/brain_2mm_axial --workdir=runs/batch
"""

import dataclasses
import importlib
import sys

import numpy as np


def batch():
    """Batch normalization where the U-Net has group normalization."""
    from trainer.models import blocks
    from trainer.models.normalization import Normalization

    blocks.GroupNormalization = lambda _: Normalization()


def stretched():
    """A U-Net that sees each slice from 0 to 1."""
    import tensorflow as tf

    from trainer.models import networks

    class Stretched(networks.UNet):
        """The U-Net between a division by the slice's brightest pixel and a multiplication."""

        def call(self, inputs, training=None):
            """Slices [B, H, W, 1] to float32 [B, H, W, 1 or 2]."""
            slices = tf.cast(inputs, tf.float32)
            brightest = tf.maximum(tf.reduce_max(slices, axis=(1, 2, 3), keepdims=True), 1e-3)
            result = super().call(slices / brightest, training=training)
            return tf.concat([result[..., :1] * brightest, result[..., 1:]], axis=-1)

    networks.UNet = Stretched


def whole_head():
    """Heads instead of brains, on the same scale."""
    import tensorflow as tf

    from evaluator.brains import maps, scans, synthetic
    from ixi_tfds import slices
    from ixi_tfds.images import brain, damage, tissue

    brain_of, moved, match = brain.brain_of, brain.moved, tissue.match_tissues
    damaged, varied, add_lesions = damage.damaged, damage.varied, synthetic.add_lesions

    def head_of(volume, path, mask, config):
        made = brain_of(volume, path, mask, config)
        matrices = brain.weights(made.places, brain.places_of(volume))
        values = brain.resample(volume.scaled(volume.voxels).astype(np.float32), matrices)
        values = np.maximum(values - brain.background_of(volume), 0)
        only = np.where(made.mask, values, 0)
        flat = values / np.exp(tissue._bias(only, made.mask & (values > 0), config.spacing))
        # The factor that brought the brain to its scale.
        factor = np.median((made.values / np.maximum(flat, 1e-6))[made.mask])
        outside = np.minimum(flat * factor, tissue.HIGHEST)
        return dataclasses.replace(
            made, values=np.where(made.mask, made.values, outside).astype(np.float32)
        )

    def moved_head(head, name):
        inside = moved(head, name)
        everything = np.ones_like(head.mask)
        whole = moved(dataclasses.replace(head, mask=everything), name)
        return dataclasses.replace(inside, values=whole.values)

    def matched(scaled, mask, tissues=tissue.TISSUES):
        # What is done to the brain's values is done to equal values outside.
        found, places = np.unique(scaled[mask], return_index=True)
        made = match(scaled * mask, mask, tissues)[mask][places]
        return np.interp(scaled, found, made).astype(np.float32)

    def with_lesions(head, **how):
        ill, numbers = add_lesions(head, **how)
        return dataclasses.replace(
            ill, values=np.where(head.mask, ill.values, head.values)
        ), numbers

    def damaged_inside(images, masks, *rest, **how):
        broken, marks = damaged(images, masks, *rest, **how)
        return broken + images * (1 - masks), marks

    def run_on_heads(models, head):
        everything = dataclasses.replace(head, mask=np.ones_like(head.mask))
        return run(models, everything)

    run = maps.run
    slices.brain_of = scans.brain_of = head_of
    slices.moved = moved_head
    scans.match_tissues = matched
    damage.damaged = damaged_inside
    damage.varied = lambda images, masks, uniform: varied(images, tf.ones_like(masks), uniform)
    synthetic.add_lesions = with_lesions
    maps.run = run_on_heads


PACKAGES = ("beam_preprocess", "trainer", "evaluator")
CHANGES = {change.__name__: change for change in (batch, stretched, whole_head)}


def main(argv):
    """Run a command with a change; returns its exit code."""
    if len(argv) < 2 or argv[0] not in CHANGES or argv[1] not in PACKAGES:
        print(__doc__, file=sys.stderr)
        return 2
    package = importlib.import_module(f"{argv[1]}.__main__")
    CHANGES[argv[0]]()
    return package.run(argv[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
