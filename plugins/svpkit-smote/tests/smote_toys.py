"""Toy particles: three shapes on grey, 16 x 16 pixels."""

import numpy as np
from svpkit import ParticleSet

CLASSES = ("disc", "ring", "bar")


def picture(label, rng, size=16):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2 + rng.uniform(-1.5, 1.5, (2, 1, 1))
    radius = np.hypot(x, y) / rng.uniform(0.9, 1.2)
    turn = rng.uniform(0, np.pi)
    inside = {
        "disc": radius < 4,
        "ring": (radius > 3) & (radius < 5.5),
        "bar": np.abs(x * np.cos(turn) + y * np.sin(turn)) < 1.2,
    }[label]
    image = 170 + 60 * inside * (1 if label == "disc" else -1) + rng.normal(0, 6, (size, size))
    return image.clip(0, 255).astype(np.uint8)


def particles(counts, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    labels = [name for name, n in counts.items() for _ in range(n)]
    images = np.stack([np.repeat(picture(n, rng)[None], channels, 0) for n in labels])
    return ParticleSet.from_arrays(images, labels, CLASSES)
