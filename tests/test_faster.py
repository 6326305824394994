"""A network made quick says what it said; work shared out comes back in order."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from svpkit.classify import cifar_resnet
from svpkit.classify.balance import compose
from svpkit.classify.context import Priors
from svpkit.classify.faster import both, faster
from svpkit.classify.model import Model
from svpkit.classify.networks import build
from svpkit.classify.packed import Convolution, Pointwise, Windows, packed
from svpkit.classify.workers import in_order
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="oneDNN is not part of this PyTorch"
)
CLASSES = ("protein", "oil", "bubble")


def noise(n, channels, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, channels, size, size), generator=generator).mul_(2).sub_(1)
    return x.contiguous(memory_format=torch.channels_last)


def seasoned(network):
    """Norms that have seen something else than 0 and 1, so that a fold that is wrong shows."""
    generator = torch.Generator().manual_seed(1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.2, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.normal_(0, 0.2, generator=generator)
    return network.eval()


def timm_network(name, size=32, channels=1, **options):
    torch.manual_seed(0)
    given = {"pretrained": False, "stem": "auto", "dropout": 0.1, "width": None, "layers": ()}
    spec = ImageSpec(channels, size, CLASSES)
    return seasoned(build(spec, name, **(given | {"norm": "batch"} | options)))


def model_of(network, size=32, channels=1):
    spec = ImageSpec(channels, size, CLASSES)
    priors = Priors(np.full(3, 1 / 3), None, None)
    return Model(network, spec, compose(()), priors, {"classifier": {"plugin": "test"}})


def pictures(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, size, size), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size", "groups", "kind"),
    [
        (3, 1, 1, 8, 1, Convolution),
        (3, 1, 1, 8, 4, Convolution),
        (7, 2, 3, 16, 1, Convolution),
        (1, 1, 0, 4, 1, Pointwise),
        (1, 2, 0, 7, 1, Pointwise),
        (3, 1, 1, 2, 1, Windows),
        (3, 1, 1, 1, 1, Windows),
        (3, 2, 1, 4, 1, Windows),
        (3, 2, 1, 3, 1, Windows),
        (2, 2, 0, 4, 1, Windows),
    ],
)
@pytest.mark.parametrize("relu", [False, True])
def test_packed_convolutions_are_convolutions(kernel, stride, padding, size, groups, kind, relu):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, kernel, stride, padding, groups=groups, bias=relu)
    x = noise(5, 8, size)
    with torch.no_grad():
        plain = conv.double()(x.double())
        conv.float()
        other = noise(5, 12, plain.shape[2])
        for add in (None, other):
            for over in (False, True):
                quick = packed(conv, x.shape, relu, add is not None, over)
                wanted = plain if add is None else plain + add.double()
                wanted = wanted.relu() if relu else wanted
                # over: the second argument may be written over
                found = quick(x) if add is None else quick(x, add.clone())
                assert found.shape == wanted.shape
                assert torch.allclose(found.double(), wanted, atol=2e-6)
    if size < 8:
        assert isinstance(quick, kind)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 64, {"stem": "standard"}),
        ("resnet10t", 32, {"width": 16}),
        ("resnet26", 64, {"layers": (1, 1, 1, 1), "stem": "standard"}),
        ("resnext50_32x4d", 32, {"layers": (1, 1, 1, 1)}),
        ("regnetx_002", 32, {}),
    ],
)
def test_quick_network_says_what_it_said(name, size, options):
    network = timm_network(name, size, **options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    one = both(network, noise(2, 1, size))
    quick = faster(one, noise(16, 1, size))
    assert quick is not one
    x = noise(9, 1, size, seed=5)
    with torch.inference_mode():
        logits, features = quick(x)
        wanted, known = network.double()(x.double()), network.features(x.double())
    assert torch.allclose(logits.double(), wanted, rtol=0, atol=2e-5 * wanted.abs().max())
    assert torch.allclose(features.double(), known, rtol=0, atol=2e-5 * known.abs().max())
    assert torch.allclose(logits.softmax(1).double(), wanted.softmax(1), rtol=0, atol=1e-5)
    # no norm is left, and the network itself stays as it was
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())
    assert all(
        torch.equal(before[k], v.float())
        for k, v in network.state_dict().items()
        if v.is_floating_point()
    )


def test_other_networks_are_made_quick_or_left_alone():
    spec = ImageSpec(1, 32, CLASSES)
    cifar = seasoned(cifar_resnet.build(spec, 8, 16, (), ()))
    x = noise(8, 1, 32)
    quick = faster(both(cifar, x[:2]), x)
    with torch.inference_mode():
        assert torch.allclose(quick(x)[0], cifar(x), atol=1e-4)
    grouped = timm_network("resnet10t", width=16, norm="group")
    with torch.inference_mode():
        assert torch.allclose(faster(grouped, x)(x), grouped(x), atol=1e-4)


class Branching(nn.Module):
    """Its path depends on what it sees: nothing to be taken apart."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x):
        y = self.conv(x)
        return (y if y.mean() > 0 else -y).mean((2, 3))


class Misled(Branching):
    """Says something else when it is taken apart."""

    def forward(self, x):
        found = self.conv(x).mean((2, 3))
        return found if isinstance(x, torch.Tensor) else found + 1


@pytest.mark.parametrize("kind", [Branching, Misled])
def test_network_that_cannot_be_taken_apart_stays(kind):
    torch.manual_seed(0)
    network = kind().eval()
    assert faster(network, noise(8, 1, 16)) is network
    images = pictures(20, 16)
    model = model_of(network, 16)
    x = torch.from_numpy(images).float().div(127.5).sub(1)
    with torch.no_grad():
        wanted = np.concatenate([network(x[i : i + 5]).numpy() for i in range(0, 20, 5)])
    assert model.logits(images, batch=5) == pytest.approx(wanted, abs=1e-5)
    assert [features for _, _, features in model.outputs(images)] == [None]
    with pytest.raises(SvpkitError, match="no features"):
        model.features(images)


def test_outputs_are_logits_and_features_of_one_pass():
    network = timm_network("resnet10t", width=16)
    model, images, calls = model_of(network), pictures(150), []
    network.net.fc.register_forward_hook(lambda *_: calls.append(1))
    blocks = list(model.outputs(images, batch=40))
    assert [(b.start, b.stop) for b, _, _ in blocks] == [(0, 40), (40, 80), (80, 120), (120, 150)]
    logits = np.concatenate([logits for _, logits, _ in blocks])
    features = np.concatenate([features for _, _, features in blocks])
    x = torch.from_numpy(images).float().div(127.5).sub(1)
    with torch.inference_mode():
        wanted, known = network(x).numpy(), network.features(x).numpy()
    assert logits == pytest.approx(wanted, abs=1e-4)
    assert features == pytest.approx(known, abs=1e-4)
    assert np.array_equal(model.logits(images, batch=40), logits)
    assert np.array_equal(model.features(images, batch=40), features)
    assert not list(model.outputs(images[:0]))
    with pytest.raises(SvpkitError, match="takes uint8 images"):
        model.outputs(images[:, :, :16])


def test_head_that_does_not_make_the_logits_costs_a_second_pass():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def features(self, x):
            return self.conv(x).mean((2, 3))

        def forward(self, x):
            return 2 * self.head(self.features(x))

    torch.manual_seed(0)
    network, images = Odd().eval(), pictures(10, 16)
    assert both(network, noise(2, 1, 16)) is None
    ((_, logits, features),) = model_of(network, 16).outputs(images)
    with torch.inference_mode():
        wanted = 2 * network.head(torch.from_numpy(features)).numpy()
    assert logits == pytest.approx(wanted, abs=1e-5)


def test_answer_does_not_depend_on_neighbours():
    model, images = model_of(timm_network("resnet18", 64, stem="standard"), 64), pictures(70, 64)
    wanted = model.logits(images)
    scale = np.abs(wanted).max()
    for batch in (1, 7, 64):
        assert np.abs(model.logits(images[:20], batch) - wanted[:20]).max() < 1e-5 * scale
    assert np.abs(model.logits(images[::-1])[::-1] - wanted).max() < 1e-5 * scale


def test_work_is_in_order_and_read_no_further_than_needed():
    before, read, at_once = torch.get_num_threads(), [], []

    def items():
        for i in range(40):
            read.append(i)
            yield i

    def work(i):
        at_once.append((torch.get_num_threads(), threading.current_thread().name))
        return i * i

    found = []
    for i, square in enumerate(in_order(work, items())):
        found.append(square)
        assert len(read) <= i + 1 + 2 * before + 1
    assert found == [i * i for i in range(40)]
    assert {threads for threads, _ in at_once} == {1}
    assert torch.get_num_threads() == before


def test_work_that_fails_says_so_and_stops():
    before = torch.get_num_threads()
    read = []

    def items():
        for i in range(1000):
            read.append(i)
            yield i

    def work(i):
        if i == 3:
            raise ValueError("the fourth")
        return i

    with pytest.raises(ValueError, match="the fourth"):
        list(in_order(work, items()))
    assert len(read) < 20
    assert torch.get_num_threads() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]
