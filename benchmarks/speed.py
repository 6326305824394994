"""How fast generators draw and train: samplers on the same weights, networks side by side.

    uv run python benchmarks/speed.py --part a [--weights oil16.safetensors]
    uv run --with denoising-diffusion-pytorch python benchmarks/speed.py --part b

Part a, results/sampling_speed.csv: one `ddpm` of the reference architecture, width 16, trained on
simulated silicone oil at 32 x 32; 1,000 images by 500 ancestral steps and by 25 and 15 steps of
DPM-Solver++(2M), chunk by chunk in turn. KID minus floor is against 1,000 simulated images that the
generator has not seen, in the terms of an extractor trained on all three classes; `kid_less` is KID
minus that of ancestral-500 on the same starting noise. Intervals are of images drawn again, 95 %.
At width 64 and 64 x 64 pixels eight images are timed, with weights that were never trained.

Part b, results/network_speed.csv: a network call without gradients, and a training step (L1 on the
noise, clipping, Adam). Blocks of all networks alternate in one process, in an order that turns
round each time; medians over the blocks, and ratios to the plain reference within each round.
"""

import argparse
import csv
from pathlib import Path

import speed_networks
import speed_samplers
import torch
from rich.console import Console
from rich.table import Table


def report(rows, path):
    """Print the rows and write them as CSV; what a row does not have stays empty."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*head)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in head))
    Console(width=260).print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, head)
        writer.writeheader()
        writer.writerows(rows)


def main():
    """Measure one part, print a table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("a", "b"), required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="tiny settings: does it run?")
    a = parser.add_argument_group("part a")
    a.add_argument("--weights", type=Path, help="safetensors: read, or written after training")
    a.add_argument("--real", type=int, default=1000, help="training images of each class")
    a.add_argument("--train-images", type=int, default=40_000, help="images seen in training")
    a.add_argument("--n", type=int, default=1000, help="images drawn by each sampler")
    a.add_argument("--chunk", type=int, default=50, help="images drawn together")
    a.add_argument("--large", type=int, default=8, help="images timed at width 64; 0: none")
    b = parser.add_argument_group("part b")
    b.add_argument("--width", type=int, default=64)
    b.add_argument("--sizes", type=int, nargs="+", default=[64, 32])
    b.add_argument("--batch", type=int, default=8)
    b.add_argument("--rounds", type=int, default=11)
    b.add_argument("--calls", type=int, default=2, help="calls, or steps, in a block")
    asked = parser.parse_args()
    if asked.quick:
        asked.real, asked.train_images, asked.n, asked.chunk, asked.large = 60, 640, 40, 20, 0
        asked.width, asked.sizes, asked.rounds, asked.calls = 16, [32], 3, 1
    torch.set_num_threads(asked.threads)
    part, name = {
        "a": (speed_samplers.rows, "sampling_speed"),
        "b": (speed_networks.rows, "network_speed"),
    }[asked.part]
    report(part(asked), asked.out / f"{name}.csv")


if __name__ == "__main__":
    main()
