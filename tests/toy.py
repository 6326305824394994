"""A toy data set that a small network learns in seconds: three shapes on grey, 16 x 16 pixels."""

import numpy as np
from PIL import Image

CLASSES = ("disc", "ring", "bar")


def picture(label, rng, size=16):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2 + rng.uniform(-1.5, 1.5, (2, 1, 1))
    radius = np.hypot(x, y) / rng.uniform(0.9, 1.2)
    inside = {
        "disc": radius < 4,
        "ring": (radius > 3) & (radius < 5.5),
        "bar": np.abs(x * np.cos(a := rng.uniform(0, np.pi)) + y * np.sin(a)) < 1.2,
    }[label]
    image = 170 + 60 * inside * (1 if label == "disc" else -1) + rng.normal(0, 6, (size, size))
    return image.clip(0, 255).astype(np.uint8)


def images(counts, seed=0, size=16):
    """Return (images uint8 (N, 1, S, S), labels) for {class: n}."""
    rng = np.random.default_rng(seed)
    labels = [name for name, n in counts.items() for _ in range(n)]
    return np.stack([picture(name, rng, size)[None] for name in labels]), labels


def write_folder(folder, counts, seed=0, size=16):
    """Write class folders of PNG files."""
    pixels, labels = images(counts, seed, size)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / label / f"{label}-{seed}-{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder


RECIPE = """
name = "toy"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 40, ring = 35, bar = 35 }
test = { reader = "folder", path = "test" }
[generator]
classes = ["ring", "bar"]
options = { architecture = "lean", width = 16, timesteps = 50, blocks = 1 }
train = { images = 320, batch = 16, lr = 1e-3, ema = 0.9 }
sample = { steps = 4 }
[balance]
strategies = ["synthetic", "augment"]
[balance.synthetic]
to = "largest"
at_most = 30
[classifier]
options = { model = "resnet10t", width = 16, stem = "half" }
train = { images = 1920, batch = 32, lr = 2e-3, validations = 3 }
[evaluate]
prevalence = { disc = 100, ring = 1, bar = 1 }
replicates = 200
[[baselines]]
name = "none"
[[baselines]]
name = "corrected"
strategies = ["none", "prior_correction"]
"""
