"""Long-tailed CIFAR: files read without trust, the tail, the network, its training, the suite."""

import json
import os
import pickle
import shutil
import struct
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svpkit import bench, ledger, plugins, suite
from svpkit.classify import heads
from svpkit.classify.strategies import Augment
from svpkit.default_plugins.cifar import CifarReader, cifar_resnet
from svpkit.errors import SvpkitError
from svpkit.fit import learning_rate
from svpkit.hookspecs import ImageSpec
from svpkit.measured import Places
from svpkit.particles.cifar import long_tail, read_pickle
from svpkit.particles.ingest import import_set
from svpkit.toml import read_toml, to_toml

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
REGISTRY = plugins.discover(builtin_only=True)


class Old(pickle._Pickler):
    """Writes as Python 2 did, in which the real files are written: strings of bytes."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def dump(path, value, old=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        (Old if old else pickle.Pickler)(file, protocol=2).dump(value)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multi", b"numpy.core.multi"))


def batch(labels, seed, key=b"labels"):
    """Pictures whose colour tells the class, so that a small network learns something."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(labels)
    colour = np.random.default_rng(0).integers(40, 215, (100, 3, 1))
    pixels = colour[labels] + rng.normal(0, 20, (len(labels), 3, 1024))
    data = pixels.clip(0, 255).astype(np.uint8).reshape(len(labels), 3072)
    return {b"batch_label": b"made", key: [int(x) for x in labels], b"data": data}


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A folder like CIFAR-10's: 40 images of each class in five batches, 12 in test."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    for i in range(1, 6):
        dump(folder / f"data_batch_{i}", batch(np.repeat(np.arange(10), 8), i), old=i != 2)
    dump(folder / "test_batch", batch(np.repeat(np.arange(10), 12), 9))
    dump(folder / "batches.meta", {b"label_names": [name.encode() for name in NAMES]})
    return folder


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "cifar-100-python"
    for name, n in (("train", 6), ("test", 1)):
        dump(folder / name, batch(np.repeat(np.arange(100), n), n, b"fine_labels"))
    dump(folder / "meta", {b"fine_label_names": [b"c%02d" % i for i in range(100)]})
    return folder


def read(folder, **options):
    return list(CifarReader().read(folder, **options))


def test_the_tail_is_that_of_the_literature():
    assert long_tail(5000, 10, 100)[0::9] == [5000, 50] and sum(long_tail(5000, 10, 100)) == 12_406
    assert long_tail(500, 100, 100)[0::99] == [500, 5] and sum(long_tail(500, 100, 100)) == 10_847
    assert long_tail(5000, 10, 1) == [5000] * 10


def test_images_come_as_they_were_written(ten):
    found = read(ten)
    assert Counter(row["label"] for _, row in found) == dict.fromkeys(NAMES, 40)
    assert list(dict.fromkeys(row["label"] for _, row in found)) == NAMES
    assert len({row["id"] for _, row in found}) == 400
    written = batch(np.repeat(np.arange(10), 8), 3)
    at = {row["id"]: (image, row["label"]) for image, row in found}
    for i in (0, 41, 79):
        image, label = at[f"train-{160 + i:05d}"]
        assert image.shape == (32, 32, 3) and label == NAMES[written[b"labels"][i]]
        red, green = written[b"data"][i][:1024], written[b"data"][i][1024:2048]
        assert image[5, 7].tolist()[:2] == [red[5 * 32 + 7], green[5 * 32 + 7]]
    assert len(read(ten, part="test")) == 120


def test_a_tail_is_cut_by_the_seed_and_lies_within_a_shorter_one(ten, hundred):
    found = {s: [row["id"] for _, row in read(ten, imbalance=10, seed=s)] for s in (0, 1)}
    assert len(found[0]) == sum(long_tail(40, 10, 10)) and found[0] != found[1]
    assert set(found[0]) < {row["id"] for _, row in read(ten, imbalance=5)}
    spare = Counter(row["label"] for _, row in read(ten, imbalance=10, spare=1))
    assert [spare[n] for n in NAMES] == [40, *(n + 1 for n in long_tail(40, 10, 10)[1:])]
    assert len(read(hundred, imbalance=6)) == sum(long_tail(6, 100, 6))


def test_a_set_of_colour_images_is_made_of_it(ten, tmp_path):
    use = REGISTRY.use("reader", "cifar", {"imbalance": 10}, "data.reader")
    particles = import_set(tmp_path / "set", use, ten, size=32, channels=3)
    assert particles.shape == (3, 32, 32) and particles.classes == tuple(NAMES)
    image, _ = read(ten, imbalance=10)[3]
    assert np.array_equal(particles.images([3])[0], image.transpose(2, 0, 1))
    assert CifarReader().sniff(ten) and not CifarReader().sniff(tmp_path)


def test_a_picture_of_the_test_part_is_not_trained_on(ten, tmp_path):
    for path in ten.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shown = batch(np.repeat(np.arange(10), 12), 9)
    shown[b"data"][7] = batch(np.repeat(np.arange(10), 8), 1)[b"data"][5]
    dump(tmp_path / "test_batch", shown)
    left = {row["id"] for _, row in read(ten)} - {row["id"] for _, row in read(tmp_path)}
    assert left == {"train-00005"}


class Call:
    """What a stranger's pickle may hold: a call of anything."""

    def __init__(self, function, *args):
        self.pair = function, args

    def __reduce__(self):
        return self.pair


@pytest.mark.parametrize("function", [os.mkdir, eval, np.load, np.zeros, getattr])
def test_what_a_file_names_is_never_called(ten, tmp_path, function):
    for path in ten.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    trap = str(tmp_path / "trap")
    for value in (
        Call(function, trap),
        {b"data": [Call(function, f"__import__('os').mkdir({trap!r})")]},
    ):
        dump(tmp_path / "data_batch_4", value, old=False)
        with pytest.raises(SvpkitError, match=r"data_batch_4: asks for '.*', as no CIFAR batch do"):
            read(tmp_path)
    assert not (tmp_path / "trap").exists()


def test_stand_ins_let_nothing_be_set_on_them(tmp_path):
    # BUILD with attributes, on the class itself and on one that it made
    for made in (b"", b"U\x02u1\x85R"):
        (tmp_path / "x").write_bytes(
            b"\x80\x02cnumpy\ndtype\n" + made + b"N}U\x04nameU\x01xs\x86b."
        )
        with pytest.raises(SvpkitError, match=r"x: (cut short|holds a)"):
            read_pickle(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"\x80\x02c_codecs\nencode\n}U\x01aU\x01bsb.")
    with pytest.raises(SvpkitError, match="x: cut short"):
        read_pickle(tmp_path / "x")


DEEP = b"\x80\x02)" + b"\x85" * 2_000_000 + b"."
FAR = b"\x80\x02}r\xff\xff\xff\x07."


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (DEEP, "is nested more than 4 deep"),
        (b"\x80\x02" + b"(" * 9 + b")" + b"t" * 9 + b".", "is nested more than 4 deep"),
        (b"\x80\x02" + b"]" * 9 + b"a" * 8 + b".", "is nested more than 4 deep"),
        (b"\x80\x02}U\x01x" + b"]" * 9 + b"a" * 8 + b"s.", "is nested more than 4 deep"),
        (FAR, "remembers object 134,217,727 of 2"),
        (b"\x80\x02]q\x00(" + b"h\x00" * 9 + b"e.", "holds one list, dict or tuple twice"),
        (b"\x80\x02)2\x86.", "holds the opcode DUP"),
        (b"\x80\x02I1\n.", "holds the opcode INT"),
        (b"\x80\x02}(\x85s.", "cut short, or no CIFAR batch"),
        (b"\x80\x03B\xff\xff\xff\xffx.", "cut short, or no CIFAR batch"),
        (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}.", "cut short, or no CIFAR batch"),
        (b"\x80\x02}K\x01K\x02s.", "cut short, or no CIFAR batch .a int where a text is wanted"),
    ],
)
def test_what_unpickling_would_choke_on_is_not_unpickled(tmp_path, raw, said):
    (tmp_path / "x").write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(SvpkitError, match=f"x: {said}") as error:
            read_pickle(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("texts", [bytes, str])
def test_files_saved_anew_by_python_3_are_read(tmp_path, protocol, texts):
    whole = GOOD | {b"filenames": [b"f%d.png" % i for i in range(3000)]}
    if texts is str:
        whole = {k.decode(): v for k, v in whole.items()}
        whole["filenames"] = [name.decode() for name in whole["filenames"]]
    (tmp_path / "x").write_bytes(pickle.dumps(whole, protocol))
    found = read_pickle(tmp_path / "x")
    assert found["labels"] == GOOD[b"labels"] and len(found["filenames"]) == 3000
    assert np.array_equal(found["data"].pixels, GOOD[b"data"])


GOOD = batch(np.repeat(np.arange(10), 8), 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "holds a list, no CIFAR batch"),
        ({b"labels": [1]}, r"'data' holds nothing, \(images, 3072\) of uint8 is wanted"),
        (GOOD | {b"data": GOOD[b"data"][:, :3000]}, r"'data' holds \(80, 3000\)"),
        (GOOD | {b"data": GOOD[b"data"].astype(float)}, "an array that is not uint8"),
        (GOOD | {b"data": np.array([None])}, "an array that is not uint8"),
        (GOOD | {b"labels": GOOD[b"labels"][1:]}, "79 'labels' for 80 images"),
        (GOOD | {b"labels": [10, *GOOD[b"labels"][1:]]}, "'labels' must be 0 to 9"),
        (GOOD | {b"labels": ["x", *GOOD[b"labels"][1:]]}, "'labels' must be 0 to 9"),
    ],
)
def test_a_wrong_batch_is_one_line_that_names_it(ten, tmp_path, value, said):
    for path in ten.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dump(tmp_path / "data_batch_1", value)
    with pytest.raises(SvpkitError, match=f"data_batch_1: .*{said}") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_wrong_folder_a_short_file_and_wrong_options_are_told(ten, tmp_path):
    with pytest.raises(SvpkitError, match="no CIFAR here; the folder with batches.meta, data_batc"):
        read(tmp_path)
    for path in ten.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (ten / "data_batch_5").read_bytes()
    for n in (0, 1, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "data_batch_5").write_bytes(whole[:n])
        with pytest.raises(SvpkitError, match="data_batch_5: cut short"):
            read(tmp_path)
    (tmp_path / "data_batch_5").unlink()
    with pytest.raises(SvpkitError, match="data_batch_5: No such file"):
        read(tmp_path)
    with pytest.raises(SvpkitError, match="imbalance and spare are for the training part"):
        read(ten, part="test", imbalance=100)
    with pytest.raises(SvpkitError, match="imbalance 100 leaves class 'ship' no image"):
        read(ten, imbalance=100)


def parameters(depth, width, classes):
    """As He et al. (2016), table 6, counts them: 3x3 kernels, two numbers a norm, a last layer."""
    n, (a, b, c) = (depth - 2) // 6, (width, 2 * width, 4 * width)
    kernels = 3 * a + 2 * n * a * a + a * b + (2 * n - 1) * b * b + b * c + (2 * n - 1) * c * c
    norms = 2 * (a + 2 * n * (a + b + c))
    return 9 * kernels + norms + (c + 1) * classes


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_the_network_has_the_published_size(depth, millions):
    net = cifar_resnet(ImageSpec(3, 32, tuple(NAMES)), depth=depth)
    n = sum(p.numel() for p in net.parameters())
    assert n == parameters(depth, 16, 10) and n / 1e6 == pytest.approx(millions, abs=0.01)
    layers = [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == depth


def test_the_network_is_fit_for_strategies_and_normalises_its_input():
    torch.manual_seed(0)
    spec, mean, sd = ImageSpec(3, 32, ("a", "b")), (0.5, 0.4, 0.3), (0.2, 0.25, 0.1)
    net = cifar_resnet(spec, depth=8, width=4, mean=mean, sd=sd).eval()
    heads.check(net, spec, "cifar_resnet")
    plain = cifar_resnet(spec, depth=8, width=4).eval()
    assert set(net.state_dict()) == set(plain.state_dict()) and "shift" not in net.state_dict()
    plain.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 32, 32)
    m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, sd))
    assert torch.allclose(net(2 * images - 1), plain((images - m) / s), atol=1e-5)
    heads.use_cosine(net, 30.0, "cifar_resnet")
    assert float(net(images).detach().abs().max()) <= 30.001
    # a block whose convolutions are silent hands on what it was given: strided, padded by zeros
    block = plain.blocks[1]
    block.conv2.weight.data.zero_()
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 4, 4, 4)], 1))
    with pytest.raises(SvpkitError, match="depth: given 33, 6 n . 2 is wanted, such as 32"):
        cifar_resnet(spec, depth=33)
    with pytest.raises(SvpkitError, match="sd: 1 values for 3 channels"):
        cifar_resnet(spec, sd=(0.2,))


def test_the_rate_falls_by_steps():
    plan = SimpleNamespace(images=20_000, batch=100, lr=0.1, schedule="step", warmup=0.025)
    rates = {epoch: learning_rate(plan, epoch * 100) for epoch in (5, 100, 159, 160, 179, 180, 199)}
    assert rates == pytest.approx(
        {5: 0.1, 100: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 199: 1e-5}
    )
    rising = [learning_rate(plan, i) for i in range(0, 500, 100)]
    assert rising == pytest.approx([0.1 * (i + 1) / 6 for i in range(5)])


def test_crop_and_flip_are_those_of_a_padded_picture():
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    seeds = torch.arange(600)
    moved, _ = Augment("horizontal", False, 0.25, "black").augment(
        image.expand(600, -1, -1, -1), seeds, seeds
    )
    both = [image[0].numpy(), image[0].numpy()[:, :, ::-1]]
    padded = [np.pad(one, ((0, 0), (2, 2), (2, 2)), constant_values=-1) for one in both]
    crops = [p[:, y : y + 8, x : x + 8] for p in padded for y in range(5) for x in range(5)]
    which = [[np.array_equal(m, c) for c in crops] for m in moved.numpy()]
    counts = np.sum(which, axis=0)
    assert np.sum(which, axis=1).tolist() == [1] * 600 and len(counts) == 50
    # 600 draws of 50 alike: chi-square below its 1 - 1e-4 quantile for 49 degrees of freedom
    assert ((counts - 12) ** 2 / 12).sum() < 94


def test_two_arms_of_the_shipped_suite_run_on_made_files(ten, tmp_path):
    small = read_toml(BENCHMARKS / "cifar_lt.toml")
    small["arms"] = {arm: small["arms"][arm] for arm in ("none", "ldam-drw")}
    shutil.copy(BENCHMARKS / small["recipe"], tmp_path)
    small["seeds"] = [0]
    # only the winner is opened on test, which spares a report
    small["select"] = "val.macro_recall"
    small["set"] = {
        "data.options.imbalance": 10,
        "classifier.options": {"depth": 8, "width": 4},
        "classifier.train": {"images": 960, "batch": 32},
        "evaluate.replicates": 100,
    }
    (tmp_path / "small.toml").write_text(to_toml(small))
    places = Places(tmp_path / "runs", tmp_path / "store", tmp_path / "out", ten.parent)
    trial = bench.open_bench(tmp_path / "small.toml", REGISTRY, places)
    bench.run(trial)
    rows = ledger.read(trial.results)
    assert {r["arm"]: r.get("error") for r in rows.values()} == {"none": None, "ldam-drw": None}
    assert all(row["images_seen"] == "960" for row in rows.values())
    (won,) = (row for row in rows.values() if "test.macro_recall" in row)
    # the colours tell the classes: better than one in ten by far
    assert 0.2 < float(won["test.macro_recall"]) <= 1
    for path in (tmp_path / "store").glob("classifier-*/config.json"):
        config = json.loads(path.read_text())
        # val is too small to choose: the last weights
        assert not config["chosen_on_val"] and config["chosen_at_images"] == 960


@pytest.mark.parametrize(("name", "n"), [("cifar_lt", 12_406), ("cifar100_lt", 10_847)])
def test_the_shipped_suites_are_the_recipe_of_cao(name, n):
    path = BENCHMARKS / f"{name}.toml"
    cells = suite.cells(suite.load(path), path)
    assert len(cells) == 19 * 3
    for cell in cells:
        train = cell.recipe.classifier.train
        assert train.images == 200 * n and (train.batch, train.lr) == (128, 0.1)
        assert (train.schedule, train.optimizer, train.weight_decay) == ("step", "sgd", 2e-4)
        assert (train.ema, train.clip, train.warmup * 200) == (0, 0, 5)
        prevalence = cell.recipe.evaluate.prevalence
        assert set(prevalence.values()) == {1} and len(prevalence) == (100 if "100" in name else 10)
