"""PSNR and SSIM of 600 pairs at 256x256: ours, a scikit-image loop, and torchmetrics.

All have the 11x11 Gaussian window of sigma 1.5 and take float32 pairs from memory, as arrays or
tensors. That their values agree to 1e-4 is checked before the clock starts. Each has a process of
its own; rounds alternate.

    .venv/bin/python benchmarks/scoring.py [--pairs=600] [--rounds=7]
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time

import numpy as np
import rounds as shared

BATCH = 8


def write_pairs(path, count):
    """Smooth random slices, each with a blurred and noised copy, float32 [2, count, 256, 256]."""
    import scipy.ndimage

    random = np.random.default_rng(0)
    originals = scipy.ndimage.gaussian_filter(random.random((count, 256, 256)), (0, 3, 3))
    originals -= originals.min(axis=(1, 2), keepdims=True)
    originals /= originals.max(axis=(1, 2), keepdims=True)
    noise = random.normal(scale=0.03, size=originals.shape)
    copies = np.clip(scipy.ndimage.gaussian_filter(originals, (0, 1, 1)) + noise, 0, 1)
    np.save(path, np.stack([originals, copies]).astype(np.float32))


def _batches(count):
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def ours(pairs):
    """The evaluator's metrics."""
    import tensorflow as tf

    from ixi_tfds.images import metrics

    originals, copies = (tf.constant(images[..., None]) for images in pairs)

    @tf.function
    def judge(originals, copies):
        return tf.stack([metrics.psnr(originals, copies), metrics.ssim(originals, copies)], axis=1)

    def score():
        batches = _batches(len(pairs[0]))
        return np.concatenate([judge(originals[batch], copies[batch]) for batch in batches])

    return score


def scikit_image(pairs):
    """A loop over pairs."""
    from skimage import metrics

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

    def score():
        return [
            (
                metrics.peak_signal_noise_ratio(a, b, data_range=1),
                metrics.structural_similarity(a, b, data_range=1, **settings),
            )
            for a, b in zip(*pairs, strict=True)
        ]

    return score


def torchmetrics(pairs):
    """Its functions, in batches; it averages over the borders too, so its SSIM differs a little."""
    import torch
    from torchmetrics.functional import image

    originals, copies = (torch.from_numpy(images[:, None]) for images in pairs)
    settings = {"data_range": 1.0, "reduction": "none", "dim": (1, 2, 3)}

    def score():
        return np.concatenate(
            [
                np.stack(
                    [
                        image.peak_signal_noise_ratio(copies[b], originals[b], **settings),
                        image.structural_similarity_index_measure(
                            copies[b], originals[b], data_range=1.0, sigma=1.5, reduction="none"
                        ),
                    ],
                    axis=1,
                )
                for b in _batches(len(originals))
            ]
        )

    return score


WAYS = {"ours": ours, "scikit-image": scikit_image, "torchmetrics": torchmetrics}


def be(way, path):
    """Score once for the values and to warm up, then round by round."""
    score = WAYS[way](np.load(path))
    np.save(f"{path}.{way}.npy", np.asarray(score(), np.float64))

    def seconds():
        started = time.perf_counter()
        score()
        return time.perf_counter() - started

    shared.serve(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--rounds", type=shared.several, default=7)
    parser.add_argument("--way", choices=WAYS, help="be this one; for the benchmark itself")
    parser.add_argument("--path")
    arguments = parser.parse_args()
    if arguments.way:
        be(arguments.way, arguments.path)
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = pathlib.Path(folder, "pairs.npy")
        write_pairs(path, arguments.pairs)
        rivals = []
        for way in WAYS:
            python, settings = sys.executable, None
            if way == "torchmetrics":
                python, settings = shared.torch_python(), shared.KEEP_MEMORY
            command = [python, __file__, f"--way={way}", f"--path={path}"]
            rivals.append(stack.enter_context(shared.Rival(command, settings)))
        seconds = shared.alternate(rivals, arguments.rounds)
        values = {way: np.load(f"{path}.{way}.npy") for way in WAYS}
    np.testing.assert_allclose(values["ours"], values["scikit-image"], atol=1e-4)
    rates = dict(zip(WAYS, arguments.pairs / np.median(seconds, axis=0), strict=True))
    ratios = {
        way: shared.median_with_interval(seconds[:, place] / seconds[:, 0])
        for place, way in enumerate(WAYS)
        if place
    }
    for way, rate in rates.items():
        print(f"{way:<14}{rate:7.0f} pairs a second")
    for way, ratio in ratios.items():
        away = np.abs(values["ours"] - values[way]).max(axis=0)
        print("ours against {}: {:.2f} ({:.2f} to {:.2f})".format(way, *ratio), end="")
        print(f"; PSNR off by {away[0]:.1e} dB at most, SSIM by {away[1]:.1e}")
    shared.record(
        "scoring",
        pairs_a_second=rates,
        times_as_fast=ratios,
        pairs=arguments.pairs,
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
