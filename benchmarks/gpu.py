"""Images a second in training on a GPU: ours with and without XLA and augmentation, and PyTorch.

For each model and precision, the ways of `benchmarks/step.py` alternate on the same card, each in a
process of its own: ours as the trainer runs it, with XLA, with XLA and clean inputs, and PyTorch
compiled. Float32 is without TF32, which a card from compute capability 8.0 computes convolutions in
unless it is turned off.

    .venv/bin/python benchmarks/gpu.py [--models=small_resnet,big_resnet]
      [--precisions=float32,tf32,bfloat16] [--rounds=10] [--side=256] [--batch_size=32] [--steps=20]

PyTorch gets an environment of its own, made in `.rivals` at the first run; `--pytorch=false` leaves
it out. Without a GPU `--cpu` shows that the benchmark runs; its numbers are not recorded.
"""

import argparse
import sys

import rounds as shared
import step

PRECISIONS = ("float32", "tf32", "bfloat16")
OURS = {
    "ours": {},
    "ours, XLA": {"jit": True},
    "ours, XLA, clean inputs": {"jit": True, "augment": False},
}
PYTORCH = "PyTorch, compiled"


def be(arguments):
    """Be one of the ways, for the benchmark itself."""
    arguments.model, (precision,) = arguments.models[0], arguments.precisions
    bfloat16 = precision == "bfloat16"
    if arguments.way == PYTORCH:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        step.pytorch(arguments, last=True, compiled=True, bfloat16=bfloat16)
        return
    import tensorflow as tf

    from ixi_tfds import gpus

    gpus.prepare()
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    policy = "mixed_bfloat16" if bfloat16 else "float32"
    step.ours(arguments, policy, **OURS[arguments.way])


def compare(arguments, model, precision):
    """Print and return the images a second of each way, and the ratios to ours."""
    names = [*OURS, *([PYTORCH] if arguments.pytorch == "true" else [])]
    mine = [f"--models={model}", f"--precisions={precision}", *arguments.same]
    speeds, ratios = step.measure(names, [sys.argv[0], *mine], arguments)
    for name, speed in speeds.items():
        against = "   ours against it {:.3f} ({:.3f} to {:.3f})".format(
            *ratios.get(name, [1.0] * 3)
        )
        print(f"{model:<14}{precision:<10}{name:<26}{speed:9.1f} images/s{against}")
    return speeds, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=lambda text: text.split(","), default=[*step.STAGES])
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=[*PRECISIONS])
    parser.add_argument("--rounds", type=shared.several, default=10)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pytorch", choices=("true", "false"), default="true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--way", choices=(*OURS, PYTORCH), help="for the benchmark itself")
    arguments = parser.parse_args()
    if arguments.way:
        be(arguments)
        return
    arguments.same = [
        f"--{name}={getattr(arguments, name)}" for name in ("side", "batch_size", "steps")
    ]
    from ixi_tfds import gpus

    gpus.prepare()
    card = gpus.describe("float32", xla=False).partition(";")[0]
    if not arguments.cpu and card.startswith("runs on the CPU"):
        parser.error(f"there is no GPU to measure: {card}; --cpu shows that the benchmark runs")
    print(card, flush=True)
    for model in arguments.models:
        for precision in arguments.precisions:
            speeds, ratios = compare(arguments, model, precision)
            if not arguments.cpu:
                shared.record(
                    f"gpu, {model}, {precision}",
                    images_a_second=speeds,
                    times_as_fast=ratios,
                    rounds=arguments.rounds,
                    setting=f"{card}; {arguments.side}x{arguments.side}, batch "
                    f"{arguments.batch_size}, {arguments.steps} steps a round",
                )


if __name__ == "__main__":
    main()
