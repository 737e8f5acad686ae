"""Pictures of brains in the report: which slice, and how it lies."""

import io

import numpy as np
import PIL.Image

from evaluator.brains.pictures import picture_of
from evaluator.brains.tally import Judged
from evaluator.report import figures
from ixi_tfds.images.brain import Brain
from ixi_tfds.images.resampling import Places


def test_the_slice_with_most_lesion_is_shown_with_the_nose_up_and_right_at_the_right():
    shape = (30, 12, 20)
    values = np.full(shape, 0.3, np.float32)
    lesion = np.zeros(shape, bool)
    lesion[2:5, 7, 15:18] = lesion[10, 3, 10] = True
    # In front, to the right.
    values[lesion] = 1.2
    places = tuple(Places(n, 2.0) for n in shape)
    brain = Brain(values, np.ones(shape, bool), places, 0.0)
    scores = {"ensemble": np.where(lesion, 0.5, 0).astype(np.float32)}
    found = Judged(brain, scores, {"repair": np.where(lesion, 0.9, 0).astype(np.float32)}, lesion)
    shown = picture_of("a", found)
    pixels = np.asarray(PIL.Image.open(io.BytesIO(figures.slice_png(shown.slice))))
    assert pixels.shape == (30, 20)
    rows, columns = np.nonzero(pixels == 255)
    assert (set(rows), set(columns)) == ({2, 3, 4}, {15, 16, 17})
    assert (pixels == 255).sum() == 9 and np.median(pixels) == 64
    np.testing.assert_array_equal(shown.lesion, shown.scores["ensemble"] > 0)
    np.testing.assert_allclose(shown.repaired["repair"], 0.25, atol=1e-6)
