import numpy as np
import pytest

from trainer import losses
from trainer.config import TrainConfig


def reference_dssim(clean, reconstruction):
    """Patch by patch, in double precision."""
    values = []
    for a, b in zip(clean.astype(np.float64), reconstruction.astype(np.float64), strict=True):
        patches = []
        for row in range(0, a.shape[0] - 2, 3):
            for column in range(0, a.shape[1] - 2, 3):
                t = a[row : row + 3, column : column + 3].ravel()
                p = b[row : row + 3, column : column + 3].ravel()
                covariance = np.cov(t, p, bias=True)[0, 1]
                ssim = (2 * t.mean() * p.mean() + 0.0001) * (2 * covariance + 0.0009)
                ssim /= (t.mean() ** 2 + p.mean() ** 2 + 0.0001) * (t.var() + p.var() + 0.0009)
                patches.append((1 - ssim) / 2)
        values.append(np.mean(patches))
    return np.array(values)


@pytest.mark.parametrize("shape", [(4, 9, 12, 1), (2, 16, 32, 1), (3, 10, 11, 3)])
def test_dssim_equals_an_independent_computation(shape):
    random = np.random.default_rng(0)
    clean = random.random(shape, dtype=np.float32)
    other = np.clip(clean + random.normal(0, 0.1, shape), 0, 1).astype(np.float32)
    np.testing.assert_allclose(
        losses.dssim(clean, other), reference_dssim(clean, other), rtol=1e-4, atol=1e-6
    )


def test_dssim_by_hand():
    # Flat patches have no variance: ssim = (2 * 0.5 * 0.25 + 1e-4) / (0.25 + 0.0625 + 1e-4).
    clean, other = np.full((1, 3, 3, 1), 0.5, np.float32), np.full((1, 3, 3, 1), 0.25, np.float32)
    assert losses.dssim(clean, other).numpy() == pytest.approx([(1 - 0.2501 / 0.3126) / 2])
    # One pixel of nine: means 1/9, variances and covariance 8/81 and their negative part.
    clean = np.zeros((1, 3, 3, 1), np.float32)
    clean[0, 0, 0, 0] = 1
    other = np.roll(clean, 1, axis=1)
    covariance, variance = -1 / 81, 8 / 81
    expected = (1 - (2 * covariance + 0.0009) / (2 * variance + 0.0009)) / 2
    assert losses.dssim(clean, other).numpy() == pytest.approx([expected], rel=1e-5)


def test_losses_are_nothing_for_a_perfect_reconstruction_and_one_value_an_image():
    clean = np.random.default_rng(1).random((5, 12, 12, 1), dtype=np.float32)
    for name in losses.LOSSES:
        loss = losses.make_loss(name, weight=0.5)
        np.testing.assert_allclose(loss(clean, clean), np.zeros(5), atol=1e-6)
    error = np.float32([0.1, 0.2, 0.3, 0.4, 0.5])[:, None, None, None]
    np.testing.assert_allclose(
        losses.mse(clean, clean + error), [0.01, 0.04, 0.09, 0.16, 0.25], rtol=1e-4
    )


def test_a_mix_is_the_weighted_sum():
    random = np.random.default_rng(2)
    clean, other = random.random((2, 3, 9, 9, 1), dtype=np.float32)
    # As a flag gives it: equal to the name in the code, but another object.
    name = "".join(["m", "ix"])
    mix = losses.make_loss(name, weight=0.3)(clean, other)
    expected = 0.7 * np.mean((clean - other) ** 2, axis=(1, 2, 3)) + 0.3 * reference_dssim(
        clean, other
    )
    np.testing.assert_allclose(mix, expected, rtol=1e-4)
    assert losses.make_loss("dssim", weight=0.3) is losses.dssim


def test_a_new_loss_is_one_entry(monkeypatch):
    def mae(clean, reconstruction):
        return np.abs(clean - reconstruction).mean(axis=(1, 2, 3))

    monkeypatch.setitem(losses.LOSSES, "mae", losses.Loss(mae))
    assert TrainConfig(data_dir="D", workdir="W", loss="mae").loss == "mae"
    assert losses.make_loss("mae", weight=0.5) is mae
