"""Features against timm's own, at the native size to the bit, for both namings of the weights."""

import re
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from svpkit import ImageSpec, SvpkitError
from svpkit.testing import parametrize_with_checks
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from svpkit_dino import dino

SPEC = ImageSpec(1, 16, ("a", "b"))
SMALL = {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.1}
NATIVE = 56


def tiny_dino(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, **more):
    more = {k: v for k, v in more.items() if k != "cache_dir"}
    return VisionTransformer(**{"img_size": NATIVE, **SMALL, **more})


def tiny_dino_registers(pretrained=False, **more):
    return tiny_dino(reg_tokens=2, no_embed_class=True, **more)


@pytest.fixture(scope="session", autouse=True)
def models():
    module = sys.modules[__name__]
    module.__all__ = []
    for make in (tiny_dino, tiny_dino_registers):
        register_model(make)


def network(name):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = timm.create_model(name, num_classes=0, img_size=NATIVE).eval()
        for value in net.parameters():
            torch.nn.init.normal_(value, std=0.3)
    return net


def as_transformers(state):
    """Name and cut weights as transformers does, written down from its names."""
    found = {"embeddings.mask_token": torch.zeros(1, 32)}
    for key, value in state.items():
        key = re.sub(r"^blocks\.(\d+)\.", r"encoder.layer.\1.", key)
        key = key.replace("attn.proj", "attention.output.dense")
        key = re.sub(r"ls([12])\.gamma", r"layer_scale\1.lambda1", key)
        if "attn.qkv" in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[key.replace("attn.qkv", f"attention.attention.{name}")] = part
            continue
        if not key.startswith("encoder."):
            key = key.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            key = key.replace("pos_embed", "embeddings.position_embeddings")
            key = key.replace("reg_token", "embeddings.register_tokens")
            key = key.replace("cls_token", "embeddings.cls_token").replace("norm.", "layernorm.")
        found[key] = value
    return found


@pytest.fixture(scope="session")
def net():
    return network("tiny_dino")


@pytest.fixture(params=["timm", "transformers", "with a head"])
def weights(request, net, tmp_path):
    state = net.state_dict()
    if request.param != "timm":
        state = as_transformers(state)
    if request.param == "with a head":
        state = {f"dinov2.{key}": value for key, value in state.items()}
        state["classifier.weight"] = torch.zeros(7, 64)
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def pictures(side, channels=1):
    return torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalised(images):
    x = ((images + 1) / 2).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(x) for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (x - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_features_are_those_of_timm(net, weights, channels):
    images = pictures(NATIVE, channels)
    with torch.no_grad():
        expected = net.forward_features(normalised(images))
    for tokens, wanted in (
        ("class", expected[:, 0]),
        ("mean", expected[:, 1:].mean(1)),
        ("both", torch.cat([expected[:, 0], expected[:, 1:].mean(1)], 1)),
    ):
        model = dino(SPEC, weights=weights, model="tiny_dino", side=NATIVE, tokens=tokens)
        assert torch.equal(model.features(images), wanted)


def test_another_side_interpolates_as_timm_does(net, weights):
    moving = timm.create_model(
        "tiny_dino", num_classes=0, img_size=NATIVE, dynamic_img_size=True
    ).eval()
    moving.load_state_dict(net.state_dict())
    images = pictures(16)
    resized = torch.nn.functional.interpolate(
        (images + 1) / 2, (28, 28), None, "bilinear", False, antialias=True
    )
    with torch.no_grad():
        expected = moving.forward_features(normalised(resized * 2 - 1))[:, 0]
    found = dino(SPEC, weights=weights, model="tiny_dino", side=28).features(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_registers_and_the_position_of_the_class_token(tmp_path):
    net, path = network("tiny_dino_registers"), tmp_path / "weights.safetensors"
    state = as_transformers(net.state_dict())
    first = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(2))
    state["embeddings.cls_token"] = state["embeddings.cls_token"] - first
    positions = [first, state["embeddings.position_embeddings"]]
    state["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    images = pictures(NATIVE)
    with torch.no_grad():
        expected = net.forward_features(normalised(images))
    model = dino(SPEC, weights=path, model="tiny_dino_registers", side=NATIVE, tokens="both")
    wanted = torch.cat([expected[:, 0], expected[:, 3:].mean(1)], 1)
    torch.testing.assert_close(model.features(images), wanted, atol=1e-5, rtol=1e-5)


def test_dinov3_of_timm_is_read(tmp_path):
    held = dino(SPEC, weights=None, model="vit_tiny_patch16_dinov3_qkvb", side=32)
    save_file(held.net.state_dict(), tmp_path / "v3.safetensors")
    options = {"weights": tmp_path / "v3.safetensors", "model": "vit_tiny_patch16_dinov3_qkvb"}
    model = dino(SPEC, **options, side=32, tokens="both")
    images = pictures(32)
    with torch.no_grad():
        expected = held.net.forward_features(normalised(images))
    prefix = held.net.num_prefix_tokens
    wanted = torch.cat([expected[:, 0], expected[:, prefix:].mean(1)], 1)
    assert prefix == 5 and torch.equal(model.features(images), wanted)


def test_it_is_frozen_and_float32_and_each_image_stands_alone(net, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in net.state_dict().items()}, path)
    model = dino(SPEC, weights=path, model="tiny_dino", side=28)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    images = pictures(16)
    found = model.features(images)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    alone = torch.cat([model.features(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, model.features(images.half()), atol=0.05, rtol=0.05)


def test_without_its_file_the_state_alone_makes_the_same(net, weights):
    model = dino(SPEC, weights=weights, model="tiny_dino", side=28)
    again = dino(SPEC, weights=None, model="tiny_dino", side=28)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.features(pictures(16)), model.features(pictures(16)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"side": 30}, "options.side: given 30, a multiple of tiny_dino's patch of 14 .* 28 or 42"),
        ({"side": 5}, "options.side: given 5, .* 14 or 28"),
        ({"side": 0}, "options.side: given 0"),
        ({"model": "tiny_dinos"}, "options.model: timm has no 'tiny_dinos'; did you mean 'tiny_"),
        ({"model": "resnet10t"}, "options.model: 'resnet10t' is no vision transformer"),
        ({"model": "test_vit2"}, "options.tokens: 'test_vit2' has no class token"),
    ],
)
def test_a_bad_option_is_one_line(options, said):
    with pytest.raises(SvpkitError, match=said) as caught:
        dino(SPEC, **{"weights": None, "model": "tiny_dino", "side": 32, **options})
    assert "\n" not in str(caught.value)


def changed(state, drop=(), **more):
    return {k: v.contiguous() for k, v in state.items() if k not in drop} | more


@pytest.mark.parametrize("naming", [dict, as_transformers])
def test_a_file_that_does_not_fit_is_refused(net, tmp_path, naming):
    state, path = naming(net.state_dict()), tmp_path / "other.safetensors"
    norm = next(k for k in state if k.endswith("norm.weight") and "encoder" not in k)
    misspelt = {norm.replace("weight", "wieght"): state[norm].clone()}
    for tensors, said in (
        (changed(state, {norm}, **misspelt), r"lacks 'norm.weight' \(1 of 34\), nearest .*wieght'"),
        (changed(state, stranger=torch.zeros(2)), r"has too 'stranger' \(1\)"),
        (changed(state, {norm}, **{norm: torch.zeros(3)}), "in another shape 'norm.weight'"),
        ({"weight": torch.zeros(2)}, r"lacks 'cls_token' \(34 of 34\), nearest there is 'weight'"),
    ):
        save_file(tensors, path)
        with pytest.raises(SvpkitError, match=f"weights: .*other.safetensors: not .*{said}"):
            dino(SPEC, weights=path, model="tiny_dino", side=28)


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"cls_token": torch.zeros(1)}, path)
    with pytest.raises(SvpkitError, match=r"weights.pth: not a .safetensors file .* are refused"):
        dino(SPEC, weights=path, model="tiny_dino", side=28)
    with pytest.raises(SvpkitError, match="not a .safetensors file"):
        dino(SPEC, weights=tmp_path / "none.safetensors", model="tiny_dino", side=28)


@parametrize_with_checks("dino")
def test_it_keeps_the_contract_of_extractors(check):
    check()
