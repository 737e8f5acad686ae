"""PSNR and SSIM of 600 pairs at 256x256: ours against a scikit-image loop, alternately in one run.

Both have the 11x11 Gaussian window of sigma 1.5 and take float32 pairs from memory, as arrays
and as tensors. That their values agree to 1e-4 is checked in every round.

    .venv/bin/python benchmarks/scoring.py [--pairs=600] [--rounds=7]
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import scipy.ndimage
import skimage.metrics
import tensorflow as tf

from evaluator import metrics

RESULTS = pathlib.Path(__file__).with_name("results.json")
BATCH = 8


def make_pairs(count):
    """Smooth random slices, each with a blurred and noised copy, float32 [count, 256, 256]."""
    random = np.random.default_rng(0)
    originals = scipy.ndimage.gaussian_filter(random.random((count, 256, 256)), (0, 3, 3))
    originals -= originals.min(axis=(1, 2), keepdims=True)
    originals /= originals.max(axis=(1, 2), keepdims=True)
    noise = random.normal(scale=0.03, size=originals.shape)
    copies = np.clip(scipy.ndimage.gaussian_filter(originals, (0, 1, 1)) + noise, 0, 1)
    return originals.astype(np.float32), copies.astype(np.float32)


def theirs(originals, copies):
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        (
            skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1),
            skimage.metrics.structural_similarity(a, b, data_range=1, **settings),
        )
        for a, b in zip(originals, copies, strict=True)
    ]


@tf.function
def judge(originals, copies):
    return tf.stack([metrics.psnr(originals, copies), metrics.ssim(originals, copies)], axis=1)


def ours(originals, copies):
    batches = [slice(start, start + BATCH) for start in range(0, len(originals), BATCH)]
    return np.concatenate([judge(originals[batch], copies[batch]) for batch in batches])


def timed(way, pairs):
    started = time.perf_counter()
    values = way(*pairs)
    return time.perf_counter() - started, values


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    pairs = make_pairs(arguments.pairs)
    tensors = [tf.constant(images[..., None]) for images in pairs]
    ours(*tensors)  # once for the graph, which takes half a second to make
    ratios, rates = [], {"scikit-image": [], "ours": []}
    for _ in range(arguments.rounds):
        their_seconds, their_values = timed(theirs, pairs)
        our_seconds, our_values = timed(ours, tensors)
        np.testing.assert_allclose(our_values, their_values, atol=1e-4)
        ratios.append(our_seconds / their_seconds)
        rates["scikit-image"].append(arguments.pairs / their_seconds)
        rates["ours"].append(arguments.pairs / our_seconds)
    rates = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in rates.items():
        print(f"{name:<14}{rate:7.0f} pairs a second")
    print(
        f"ours takes {statistics.median(ratios):.2f} of their time "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"
    )
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["scoring"] = {
        "pairs_a_second": rates,
        "share_of_their_time": statistics.median(ratios),
        "share_interval": [min(ratios), max(ratios)],
        "pairs": arguments.pairs,
        "rounds": arguments.rounds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
