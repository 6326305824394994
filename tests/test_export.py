"""`svpkit export`: copies that timm, onnxruntime and diffusers open, held to what svpkit says."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from toy import CLASSES, images

from svpkit import SvpkitError, api, draws
from svpkit.classify import heads
from svpkit.classify.model import Model, softmax
from svpkit.cli import cli
from svpkit.evaluate.calibration import Calibrator
from svpkit.export import graph
from svpkit.export.folder import new_folder
from svpkit.export.subject import CLOSE, added, hold, subject
from svpkit.export.timm_folder import _given, write_timm
from svpkit.export.timm_folder import compare as compare_timm
from svpkit.hookspecs import ImageSpec
from svpkit.keep import weights_of
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import discover

REGISTRY = discover(builtin_only=True, strict=True)
SMALL = {"model": "resnet10t", "width": 8, "stem": "half"}
CALIBRATOR = Calibrator(
    "vector", np.array([0.7, 1.3, 0.9]), np.array([0.4, -0.5, 0.1]), np.array([0.5, 0.3, 0.2])
)
CORRECTED = {"plugin": "prior_correction", "options": {}}
EM = {"plugin": "prior_correction", "options": {"prevalence": "em"}}


def network(plugin, options, size, cosine=None):
    """Return a classifier of drawn weights whose logits are apart, and the plugin's use."""
    use = REGISTRY.use("classifier", plugin, options, "classifier")
    with draws.seeded(0, "test"):
        net = use(ImageSpec(1, size, CLASSES))
        if cosine:
            heads.use_cosine(net, cosine, plugin)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval(), use


def made(place, plugin="timm", options=SMALL, *, strategies=(), cosine=None, size=16):
    """Write a finished run by hand, nothing trained: model, validation particles, record."""
    net, use = network(plugin, options, size, cosine)
    model = place / "runs" / "made" / "model"
    model.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, model / "model.safetensors")
    config = {
        "format": 1,
        "spec": {"channels": 1, "size": size, "classes": list(CLASSES)},
        "classifier": use.describe(),
        "strategies": list(strategies),
        "prevalence": {"disc": 100, "ring": 1, "bar": 4},
        "prior": {"disc": 0.4, "ring": 0.3, "bar": 0.3},
        "cosine": cosine,
        "intake": {"background": "keep", "um_per_px": 0.5},
        "digests": weights_of(model),
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "reference.json").write_text(json.dumps({"calibrator": CALIBRATOR.to_json()}))
    (model / "README.md").write_text("# The card\n")
    limits = {"thresholds": {"disc": 0.9, "ring": None, "bar": 0.5}, "weights": weights_of(model)}
    (model / "thresholds.json").write_text(json.dumps(limits))
    store = place / "store"
    pixels, labels = images({"disc": 60, "ring": 20, "bar": 20}, size=size)
    ParticleSet.from_arrays(pixels, labels, CLASSES).save(store / "particles-0")
    (store / "split-0").mkdir()
    split = {"classes": list(CLASSES), "data": "particles-0", "sets": {}}
    (store / "split-0" / "split.json").write_text(json.dumps(split))
    np.save(store / "split-0" / "val.npy", np.arange(len(pixels)))
    record = {"artifacts": {"split": {"name": "split-0"}}, "generators": {}, "store": str(store)}
    (model.parent / "run.json").write_text(json.dumps(record))
    (model.parent / "results.json").write_text("{}")
    opened = api.load(model.parent, registry=REGISTRY)
    write_val(opened, pixels)
    return opened


def write_val(run, pixels):
    import pandas as pd

    logits = run.model.logits(pixels)
    table = pd.DataFrame(logits, columns=[f"logit_{name}" for name in CLASSES])
    table.to_parquet(run.folder / "model" / "val.parquet")


def call(run, *args):
    """Return what the command prints."""
    words = ["--no-plugins", "export", "made", "--runs", str(run.folder.parent), *map(str, args)]
    done = CliRunner().invoke(cli, words)
    if done.exception:
        raise done.exception
    return done.output


def left_behind(out):
    return [p.name for p in out.parent.iterdir() if p.name == out.name or p.name.startswith(".")]


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    """A run with prior correction and a calibrator, and its graph."""
    run = made(tmp_path_factory.mktemp("corrected"), strategies=[CORRECTED])
    out = run.folder / "graph"
    return run, out, run.export(to="onnx", out=out)


# ONNX


@pytest.mark.parametrize("n", [1, 2, 257])
def test_the_graph_says_what_predict_says(corrected, n):
    run, out, _ = corrected
    rng = np.random.default_rng(n)
    pixels = images({"disc": 100, "ring": 90, "bar": 67}, seed=7)[0][rng.permutation(257)[:n]]
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    names = ["logits", "probabilities", "calibrated", "features"]
    logits, p, calibrated, features = session.run(names, {"images": pixels})
    model = run.model
    np.testing.assert_allclose(logits, model.logits(pixels), atol=1e-4)
    np.testing.assert_allclose(features, model.features(pixels), atol=1e-4)
    # what predict writes as p_ and as calibrated_
    table = run.predict(pixels)
    np.testing.assert_allclose(p, table[[f"p_{c}" for c in CLASSES]], atol=CLOSE)
    np.testing.assert_allclose(calibrated, CALIBRATOR(model.logits(pixels)), atol=CLOSE)
    # by the formula: what was seen in training goes, what is stated comes
    ratio = np.log(np.array([100, 1, 4]) / 105 / np.array([0.4, 0.3, 0.3]))
    np.testing.assert_allclose(p, softmax(logits + ratio), atol=1e-5)
    if n > 2:
        assert np.abs(p - softmax(logits)).max() > 0.05, "the correction would not be missed"
        assert np.abs(calibrated - softmax(logits)).max() > 0.05


def test_the_graph_tells_what_it_is(corrected):
    run, out, said = corrected
    model = onnx.load(out / "model.onnx")
    meta = {each.key: each.value for each in model.metadata_props}
    assert json.loads(meta["classes"]) == list(CLASSES) and json.loads(meta["um_per_px"]) == 0.5
    assert json.loads(meta["size"]) == 16 and json.loads(meta["left_out"]) == []
    assert json.loads(meta["thresholds"]) == {"disc": 0.9, "ring": None, "bar": 0.5}
    assert json.loads(meta["weights"]) == weights_of(run.folder / "model")
    entry = model.graph.input[0].type.tensor_type
    assert entry.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in entry.shape.dim][1:] == [1, 16, 16]
    # nothing of the disk that it was written on
    written = (out / "model.onnx").read_bytes()
    for place in (Path(torch.__file__).parent, Path(api.__file__).parent, run.folder):
        assert str(place).encode() not in written
    record = json.loads((out / "export.json").read_text())
    assert record["max_abs_difference"] == said["max_abs_difference"]
    assert set(said["max_abs_difference"]) == {"logits", "probabilities", "calibrated", "features"}
    assert record["images"] == 100 and record["checked_on"] == "validation"
    assert record["opset"] == 18 and {"onnx", "onnxruntime", "torch"} <= set(record["versions"])


def test_the_folder_has_the_card_and_digests_of_all_files(corrected):
    _, out, _ = corrected
    assert (out / "MODEL_CARD.md").read_text() == "# The card\n"
    lines = dict(reversed(x.split("  ")) for x in (out / "SHA256SUMS").read_text().splitlines())
    assert set(lines) == {p.name for p in out.iterdir()} - {"SHA256SUMS"}
    for name, digest in lines.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_changed_weights_in_the_graph_are_found(corrected, tmp_path):
    run, out, _ = corrected
    model = onnx.load(out / "model.onnx")
    largest = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    changed = onnx.numpy_helper.to_array(largest) * 1.2
    largest.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), largest.name))
    onnx.save(model, tmp_path / "model.onnx")
    own = subject(run)
    hold(graph.compare(out / "model.onnx", own), graph.PROBABILITIES, "graph")
    with pytest.raises(SvpkitError, match="its probabilities differ by up to"):
        hold(graph.compare(tmp_path / "model.onnx", own), graph.PROBABILITIES, "graph")
    with pytest.raises(SvpkitError, match="differ"):
        hold({"probabilities": float("nan")}, ("probabilities",), "graph")


def test_a_graph_that_differs_is_not_left_behind(corrected, tmp_path, monkeypatch):
    # the graph of other weights, as if torch had written wrong ones
    run, out, _ = corrected
    other, new = onnx.load(out / "model.onnx"), tmp_path / "out"
    for each in other.graph.initializer:
        if each.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(each) * np.float32(1.1)
            each.CopyFrom(onnx.numpy_helper.from_array(values, each.name))
    monkeypatch.setattr(graph.Graph, "write", lambda self, path: onnx.save(other, path))
    with pytest.raises(SvpkitError, match=r"at most 0\.0001 is allowed; nothing is written"):
        call(run, "--to", "onnx", "--out", new)
    assert left_behind(new) == []


def test_a_classifier_that_is_no_network_has_no_graph(corrected, tmp_path):
    run, _, _ = corrected
    own = subject(run)
    strange = replace(own, model=replace(own.model, network=object()))
    with pytest.raises(SvpkitError, match="is no network, so there is no graph"):
        graph.write_graph(strange, tmp_path / "out")
    with pytest.raises(SvpkitError, match="is no network of timm, .* makes$"):
        write_timm(strange, tmp_path / "out")
    assert left_behind(tmp_path / "out") == []


def test_what_is_estimated_from_each_input_is_left_out_and_said(tmp_path):
    run = made(tmp_path, "cifar_resnet", {"depth": 8, "width": 4}, strategies=[EM])
    (run.folder / "model" / "reference.json").unlink()
    shutil.rmtree(tmp_path / "store")
    out = tmp_path / "out"
    found = call(run, "--to", "onnx", "--out", out)
    assert "left out: prior_correction: estimated from each input" in found
    assert "left out: calibration" in found and "images of noise" in found
    record = json.loads((out / "export.json").read_text())
    assert record["thresholds"] is None and record["added_to_logits"] is None
    assert set(record["max_abs_difference"]) == {"logits", "probabilities", "features"}
    assert record["max_abs_difference"]["probabilities"] < CLOSE
    page = (out / "README.md").read_text()
    assert "Left out: prior_correction" in page


def test_what_strategies_add_is_found_whatever_they_are_called(tmp_path):
    model = made(tmp_path, strategies=[CORRECTED]).model
    zeros = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(added(model), model.balance.adjust(zeros, model.priors)[0])
    em = Model.load(
        tmp_path / "runs" / "made" / "model",
        REGISTRY.use("classifier", "timm", SMALL, "c"),
        [REGISTRY.use("strategy", "prior_correction", {"prevalence": "em"}, "s")],
    )
    assert added(em) is None


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    run = made(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SvpkitError, match=r"onnxruntime is missing: pip install 'svpkit\[onnx\]'"):
        call(run, "--to", "onnx", "--out", tmp_path / "out")


# timm


OPENED = {
    "plain": ({"model": "resnet10t", "stem": "standard", "layers": (1, 1, 1, 1), "width": 16}, 24),
    "grouped": ({"model": "resnet18", "stem": "standard", "norm": "group", "width": 16}, 16),
    "half": ({"model": "resnet10t", "stem": "auto", "width": 16}, 40),
    "deep": ({"model": "resnet50", "stem": "half", "width": 8, "layers": (1, 2, 1, 1)}, 24),
    "groups": ({"model": "resnet18", "stem": "half", "norm": "group", "width": 8}, 24),
    "other": ({"model": "test_efficientnet", "stem": "half"}, 32),
}
OPEN = """
import json, pathlib, re, sys
import numpy as np, timm, torch
from PIL import Image

assert not any(name.startswith("svpkit") for name in sys.modules)
for folder in map(pathlib.Path, sys.argv[1:]):
    code = re.search(r"```python\\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    there = {}
    exec(code.replace('"model.safetensors"', repr(str(folder / "model.safetensors")))
             .replace("'model.safetensors'", repr(str(folder / "model.safetensors"))), there)
    pictures = [Image.fromarray(x[0]) for x in np.load(folder / "pixels.npy")]
    x = torch.stack([there["transform"](picture) for picture in pictures])
    short = json.loads((folder / "config.json").read_text())["model_args"]
    with torch.inference_mode():
        logits = there["model"](x)
        if short:
            other = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            assert torch.equal(other(x), logits), folder
            transform = timm.data.create_transform(**timm.data.resolve_model_data_config(other))
            assert torch.equal(transform(pictures[0]), x[0])
    np.save(folder / "logits.npy", logits.numpy())
    np.save(folder / "x.npy", x.numpy())
"""


@pytest.mark.slow
def test_plain_timm_opens_the_folders_by_the_lines_of_their_pages(tmp_path):
    wanted = {}
    for name, (options, size) in OPENED.items():
        run, out = made(tmp_path / name, options=options, size=size), tmp_path / name / "out"
        said = run.export(to="timm", out=out)
        assert said["max_abs_difference"]["probabilities"] < CLOSE
        assert said["images"] == 100 and said["checked_on"] == "validation"
        pixels = images({"disc": 3, "ring": 3, "bar": 3}, seed=5, size=size)[0]
        np.save(out / "pixels.npy", pixels)
        wanted[out] = pixels, run.model.logits(pixels)
    subprocess.run([sys.executable, "-c", OPEN, *map(str, wanted)], check=True, cwd=tmp_path)
    for out, (pixels, logits) in wanted.items():
        np.testing.assert_allclose(np.load(out / "logits.npy"), logits, atol=1e-4, err_msg=str(out))
        # timm's own preparation is ours
        x = pixels.astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(np.load(out / "x.npy"), x, atol=1e-6)


def test_the_standard_resnet_has_timms_own_names(tmp_path):
    run, out = made(tmp_path, options={"model": "resnet18", "stem": "standard"}), tmp_path / "out"
    call(run, "--to", "timm", "--out", out)
    own = timm.create_model("resnet18", in_chans=1, num_classes=3)
    assert set(load_file(out / "model.safetensors")) == set(own.state_dict())
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "resnet18" and config["num_classes"] == 3
    assert config["label_names"] == list(CLASSES) and config["in_chans"] == 1
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]
    assert config["pretrained_cfg"]["mean"] == config["pretrained_cfg"]["std"] == [0.5]
    assert config["svpkit"]["thresholds"]["disc"] == 0.9
    opened = timm.create_model(
        "resnet18", checkpoint_path=str(out / "model.safetensors"), in_chans=1, num_classes=3
    ).eval()
    pixels = images({"disc": 2, "bar": 2})[0]
    with torch.inference_mode():
        found = opened(torch.from_numpy(pixels) / 127.5 - 1).numpy()
    np.testing.assert_allclose(found, run.model.logits(pixels), atol=1e-4)


def test_the_page_of_a_timm_folder_says_what_image_it_takes(tmp_path, monkeypatch):
    run, out = made(tmp_path), tmp_path / "out"
    call(run, "--to", "timm", "--out", out)
    page = (out / "README.md").read_text()
    assert "Give it a 16x16 image of mode L, prepared as svpkit does: resampled to 0.5 um" in page
    assert "divided" not in page
    monkeypatch.chdir(out)
    opening, naming = re.findall(r"```python\n(.*?)```", page, re.S)
    there = {}
    exec(opening, there)
    pixels = images({"ring": 1}, seed=5)[0]
    # a grey picture saved in colour, as instruments do
    Image.fromarray(pixels[0, 0]).convert("RGB").save("particle.png")
    with torch.inference_mode():
        exec(naming, there)
    np.testing.assert_allclose(there["logits"].numpy(), run.model.logits(pixels), atol=1e-4)
    Image.fromarray(np.zeros((20, 16), np.uint8)).save("particle.png")
    with pytest.raises(AssertionError):
        exec(naming, there)


def test_the_page_of_a_timm_folder_names_the_mode_and_the_background(tmp_path):
    own = subject(made(tmp_path))
    spec = replace(own.model.spec, channels=3)
    config = own.model.config | {"intake": {"background": "divide", "um_per_px": None}}
    own = replace(own, model=replace(own.model, spec=spec, config=config))
    page = _given(own)
    assert "16x16 image of mode RGB" in page and 'convert("RGB")' in page
    assert "divided by its background, which becomes grey 160" in page
    assert "resampled to" not in page


def test_a_changed_file_of_weights_is_found_by_the_difference(tmp_path):
    from svpkit.export.opening import openings

    options = {"model": "resnet10t", "stem": "standard", "width": 16}
    run, out = made(tmp_path, options=options), tmp_path / "out"
    run.export(to="timm", out=out)
    own = subject(run)
    net = own.model.network.net
    opening = next(openings(net, own.model.spec, own.model.config["classifier"]["options"]))
    assert compare_timm(out, opening, own)["probabilities"] < CLOSE
    tensors = load_file(out / "model.safetensors")
    tensors["layer2.0.conv1.weight"] *= 1.3
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(SvpkitError, match="differ"):
        hold(compare_timm(out, opening, own), ("probabilities",), "model.safetensors")


@pytest.mark.parametrize(
    ("plugin", "options", "cosine", "why"),
    [
        ("cifar_resnet", {"depth": 8, "width": 4}, None, "'cifar_resnet' is no network of timm"),
        ("timm", SMALL, 30.0, "its last layer is a normalised one"),
        ("timm", SMALL | {"stem": "small"}, None, "its layers (stem = 'small', width = 8"),
        (
            "timm",
            {"model": "test_efficientnet", "stem": "small"},
            None,
            "its layers (stem = 'small'",
        ),
    ],
)
def test_what_timm_cannot_open_is_refused_in_one_line(tmp_path, plugin, options, cosine, why):
    run, out = made(tmp_path, plugin, options, cosine=cosine), tmp_path / "out"
    with pytest.raises(SvpkitError, match=f"{re.escape(why)}.*; --to onnx can write it$") as error:
        call(run, "--to", "timm", "--out", out)
    assert "\n" not in str(error.value) and left_behind(out) == []


# What holds for all


@pytest.mark.slow
@pytest.mark.parametrize("to", ["timm", "onnx"])
def test_a_run_from_end_to_end_is_exported(run, tmp_path, to):
    said = run.export(to=to, out=tmp_path / "out")
    assert said["checked_on"] == "validation" and said["images"] == 110
    assert max(said["max_abs_difference"].values()) < 1e-3
    card = (run.folder / "model" / "README.md").read_bytes()
    assert (tmp_path / "out" / "MODEL_CARD.md").read_bytes() == card


def test_changed_weights_of_the_run_are_refused(tmp_path):
    run, out = made(tmp_path), tmp_path / "out"
    model = run.folder / "model"
    tensors = load_file(model / "model.safetensors")
    tensors["net.fc.weight"] *= 1.5
    save_file(tensors, model / "model.safetensors")
    (model / "thresholds.json").unlink()
    with pytest.raises(SvpkitError, match="not those that the run wrote"):
        run.export(to="timm", out=out)
    # a run of before that noted no digests: by what it recorded of validation
    config = json.loads((model / "config.json").read_text())
    del config["digests"]
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(SvpkitError, match="from those that the run recorded"):
        run.export(to="timm", out=out)
    assert left_behind(out) == []


def test_a_folder_in_use_is_left_alone_and_half_of_one_is_never_there(tmp_path):
    run, out = made(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SvpkitError, match="name a new folder"):
        call(run, "--to", "timm", "--out", out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    with pytest.raises(OSError, match="disk"), new_folder(out) as done:
        (done / "half").write_text("half")
        raise OSError("the disk is full")
    assert list(out.iterdir()) == [] and left_behind(out) == ["out"]
    call(run, "--to", "timm", "--out", out)
    assert out.stat().st_mode & 0o777 == run.folder.stat().st_mode & 0o777


def test_options_that_do_not_go_together_are_refused(tmp_path):
    run = made(tmp_path)
    for args, why in (
        (["--to", "timm", "--class", "ring"], "no --class"),
        ([], "needs --class"),
    ):
        with pytest.raises(SvpkitError, match=why):
            call(run, *args, "--out", tmp_path / "out")
    with pytest.raises(SvpkitError, match="did you mean 'onnx'"):
        run.export(to="onyx", out=tmp_path / "out")


# diffusers


def with_generator(place, plugin, options):
    """Write a run with one generator of rings, nothing trained."""
    run = made(place)
    use = REGISTRY.use("generator", plugin, options, "generator")
    with draws.seeded(0, "test"):
        net = use(ImageSpec(1, 16, ("ring",)))
    folder = place / "store" / "generator-0"
    folder.mkdir()
    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    spec = {"channels": 1, "size": 16, "classes": ["ring"]}
    (folder / "config.json").write_text(json.dumps(use.describe() | {"spec": spec}))
    record = json.loads((run.folder / "run.json").read_text())
    record["generators"] = {"ring": {"artifact": "generator-0", "classes": ["ring"]}}
    (run.folder / "run.json").write_text(json.dumps(record))
    return run, net


def test_the_generator_opens_as_a_pipeline(tmp_path):
    from diffusers import DDPMPipeline

    small = {"channels": [8, 16], "layers": 1, "attention": 1, "groups": 4, "timesteps": 100}
    run, net = with_generator(tmp_path, "diffusers_unet", small)
    out = tmp_path / "out"
    said = call(run, "--class", "ring", "--out", out)
    assert "the generator of ring" in said and "compared on 8 images of noise" in said
    pipeline = DDPMPipeline.from_pretrained(out, local_files_only=True)
    x, t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(7)
    with torch.inference_mode():
        same = torch.equal(pipeline.unet(x, t).sample, net.network.eval()(x, t).sample)
    assert same and (out / "MODEL_CARD.md").is_file() and (out / "SHA256SUMS").is_file()
    noted = json.loads((out / "export.json").read_text())
    assert noted["classes"] == ["ring"] and noted["to"] == "diffusers"
    found = noted["max_abs_difference"]
    assert found["prediction"] < 1e-5 and found["alphas"] == 0
    assert noted["images"] == 8 and noted["checked_on"] == "noise" and "torch" in noted["versions"]


def _other_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"conv_out.bias": tensors["conv_out.bias"] + 1e-3}, path)


def _other_noise(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.021}))


@pytest.mark.parametrize(
    ("fault", "said"),
    [(_other_weights, "its prediction differ by up to 0.001"), (_other_noise, "its alphas differ")],
)
def test_a_pipeline_that_differs_is_not_left_behind(tmp_path, monkeypatch, fault, said):
    from svpkit.generate.diffusers_unet import DiffusersUNet

    small = {"channels": [8, 16], "layers": 1, "attention": 1, "groups": 4, "timesteps": 100}
    run, _ = with_generator(tmp_path, "diffusers_unet", small)
    own, out = DiffusersUNet.export, tmp_path / "out"
    monkeypatch.setattr(
        DiffusersUNet, "export", lambda self, place: (own(self, place), fault(place))
    )
    with pytest.raises(SvpkitError, match=said):
        call(run, "--class", "ring", "--out", out)
    assert left_behind(out) == []


def test_our_own_generator_has_no_form_there(tmp_path):
    options = {"architecture": "lean", "width": 8, "timesteps": 20, "blocks": 1}
    run, _ = with_generator(tmp_path, "ddpm", options)
    out = tmp_path / "out"
    with pytest.raises(SvpkitError, match="'ddpm' has no form outside svpkit"):
        call(run, "--to", "diffusers", "--class", "ring", "--out", out)
    assert left_behind(out) == []
