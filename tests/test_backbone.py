"""A timm model with weights from a file as the extractor."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import toy
from safetensors.torch import save_file

from svpkit.disk import file_digest
from svpkit.errors import SvpkitError
from svpkit.generate import backbone, distances, extractor, fidelity

MODEL = "test_resnet"


@pytest.fixture
def weights(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = timm.create_model(MODEL, num_classes=7)
    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path)
    return SimpleNamespace(path=path, net=net.eval())


def test_a_given_model_is_frozen_and_recorded(weights, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    extractor.extractor(out, {"seed": 0, "model": MODEL, "weights": weights.path}, tmp_path)
    said = json.loads((out / "extractor.json").read_text())
    assert said["model"] == MODEL
    assert said["digest"] == file_digest(out / "extractor.safetensors")
    model = extractor.load_extractor(out)
    images = toy.images({"disc": 20, "ring": 20}, 0)[0]
    found = extractor.features(model, images)
    assert found.shape == (40, said["features"]) and not found.requires_grad
    # the same by the model itself: grey in three channels, resized, normalised
    cfg = weights.net.pretrained_cfg
    x = torch.from_numpy(images).float().repeat(1, 3, 1, 1) / 255
    x = torch.nn.functional.interpolate(x, cfg["input_size"][1:], mode="bilinear", antialias=True)
    x = (x - torch.tensor(cfg["mean"])[:, None, None]) / torch.tensor(cfg["std"])[:, None, None]
    with torch.no_grad():
        expected = weights.net.forward_head(weights.net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_given_model_judges_too(weights, tmp_path):
    backbone.save_backbone(tmp_path, MODEL, weights.path)
    model = extractor.load_extractor(tmp_path)

    def sort_of(counts, seed):
        images = toy.images(counts, seed)[0]
        n = len(images)
        return fidelity.Sort(images, np.full(n, np.nan), np.arange(n))

    sets = [sort_of({"disc": n}, n) for n in (40, 20, 36)]
    found = fidelity.judge(lambda x: extractor.features(model, x), *sets, {}, 0)
    assert found["n_compared"] == 18
    assert found["kid"]["value"] < 0.5 * found["kid_ceiling"]["value"]
    assert found["fid"]["value"] < found["fid_ceiling"]["value"]
    assert found["c2st"]["low"] <= 0.5 <= found["c2st"]["high"]


def test_what_does_not_fit_is_refused(weights, tmp_path):
    def refused(model, path, said):
        with pytest.raises(SvpkitError, match=said):
            extractor.extractor(tmp_path, {"seed": 0, "model": model, "weights": path}, tmp_path)

    refused("resnet10", weights.path, "timm has no 'resnet10'; did you mean")
    refused(MODEL, tmp_path / "none.safetensors", "none.safetensors: no such file")
    refused("resnet10t", weights.path, "not weights of 'resnet10t': (lacks|has too)")
    other = tmp_path / "weights.pth"
    other.write_bytes(b"\x80\x02}q\x00." * 20)
    refused(MODEL, other, "not a .safetensors file .*refused")
    save_file(weights.net.state_dict() | {"stranger": torch.zeros(2)}, weights.path)
    refused(MODEL, weights.path, "has too stranger")


@pytest.mark.parametrize("n", [30, 90])
def test_wide_features_have_the_same_fid(n):
    # wider than the images are many: the short way, which torchmetrics' long one checks
    a, b = torch.randn(2, n, 96, generator=torch.Generator().manual_seed(0)).double()
    b = 0.7 * b + 0.3
    from torchmetrics.image.fid import FrechetInceptionDistance

    long = FrechetInceptionDistance(feature=distances._Given(96)).set_dtype(torch.float64)
    long.update(a, real=False)
    long.update(b, real=True)
    assert distances.fid(a, b) == pytest.approx(float(long.compute()), rel=1e-3)
    assert np.isfinite(distances.kid(a.float(), b.float()))
