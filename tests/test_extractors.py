"""Extractors of plugins: through a walk, held to their contract; options that are paths."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from svpkit import api
from svpkit.disk import file_digest
from svpkit.errors import SvpkitError
from svpkit.generate import extractor, given
from svpkit.hookspecs import ImageSpec
from svpkit.options import check_options, located, options_of, type_name
from svpkit.particles.particleset import ParticleSet
from svpkit.places import Located
from svpkit.plugin import Plugin
from svpkit.plugins import Use, discover
from svpkit.recipe import validate
from svpkit.store import plain

PLUGIN = '''
from pathlib import Path
import torch
from safetensors.torch import load_file
from svpkit import hookimpl

class Eye(torch.nn.Module):
    def __init__(self, wide, weights):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, wide, 5, stride=3)
        self.norm = torch.nn.BatchNorm2d(wide)
        if weights is not None:
            self.conv.load_state_dict(load_file(weights))

    def features(self, images):
        return self.norm(self.conv(images)).relu().amax(dim=(2, 3)).double()

@hookimpl
def register_extractors(register):
    register("eye", eye)

def eye(spec, *, weights: Path, wide: int = 6):
    """A layer of a file."""
    return Eye(wide, weights)
'''


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with a plugin, its weights and toy data; the registry that knows the plugin."""
    folder = tmp_path_factory.mktemp("extractors")
    (folder / "eyes.py").write_text(PLUGIN)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(torch.nn.Conv2d(1, 6, 5).state_dict(), folder / "eye.safetensors")
    toy.write_folder(folder / "data", {"disc": 70, "ring": 45, "bar": 45})
    toy.write_folder(folder / "test", {"disc": 20, "ring": 20, "bar": 20}, seed=1)
    return SimpleNamespace(folder=folder, registry=discover(files=[folder / "eyes.py"]))


SMALL = (
    "data.val={disc = 24, ring = 24, bar = 24}",
    "generator.train={images = 32, batch = 16, looks = 0}",
    "generator.sample={steps = 2}",
    "generator.classes=['ring']",
    "classifier.train={images = 64, batch = 32}",
    "baselines=[]",
)
GIVEN = ("fidelity.plugin='eye'", "fidelity.options={weights = 'eye.safetensors'}")


def bound(files, *overrides):
    (files.folder / "toy.toml").write_text(toy.RECIPE)
    changes = (*SMALL, *overrides)
    return api.experiment(files.folder / "toy.toml", changes, registry=files.registry)


@pytest.fixture(scope="session")
def walked(files):
    done = api.execute(
        bound(files, *GIVEN), runs=files.folder / "runs", store=files.folder / "store"
    )
    return SimpleNamespace(folder=done.folder, store=files.folder / "store")


def artifact(walked, stage):
    (found,) = walked.store.glob(f"{stage}-*")
    return found


def test_a_walk_judges_in_the_terms_of_the_plugin(walked, files):
    made = artifact(walked, "extractor")
    said = json.loads((made / "extractor.json").read_text())
    near = files.registry.under([files.folder])
    asked = near.use("extractor", "eye", {"weights": "eye.safetensors"}, "fidelity.plugin")
    assert said["plugin"] == "eye" and said["package"] == "eyes.py" and said["features"] == 6
    assert said["options"] == plain(asked.describe())["options"]
    assert said["weights"] == file_digest(made / "extractor.safetensors")
    found = json.loads((artifact(walked, "fidelity") / "fidelity.json").read_text())
    assert found["ring"]["extractor"] == said["digest"] and "kid" in found["ring"]
    run = json.loads((walked.folder / "run.json").read_text())
    assert run["plugins"]["extractor"]["eye"]["package"] == "eyes.py"
    # the same by hand: the layer of the file, a norm that has seen nothing
    images = ParticleSet.open(next(walked.store.glob("synthetic-*"))).images()
    x = torch.from_numpy(images).float() / 127.5 - 1
    held = load_file(files.folder / "eye.safetensors")
    by_hand = torch.nn.functional.conv2d(x, held["weight"], held["bias"], stride=3)
    by_hand = (by_hand / (1 + 1e-5) ** 0.5).relu().amax(dim=(2, 3))
    use = files.registry.reopen("extractor", "eye", said["options"], "test.plugin")
    model = extractor.load_extractor(made, use)
    torch.testing.assert_close(extractor.features(model, images), by_hand)
    assert found["ring"]["n_compared"] >= 8


def test_the_artifact_opens_without_the_file_it_was_made_from(walked, files, tmp_path):
    moved = shutil.copytree(artifact(walked, "extractor"), tmp_path / "moved")
    registry = discover(files=[files.folder / "eyes.py"])
    use = registry.reopen("extractor", "eye", {"weights": {"digest": "gone"}}, "here.plugin")
    assert use.options == {"weights": None, "wide": 6}
    model = extractor.load_extractor(moved, use)
    assert not model.training and not model.net.norm.training
    assert not any(p.requires_grad for p in model.parameters())
    images = toy.images({"disc": 40})[0]
    found = extractor.features(model, images)
    assert found.dtype == torch.float32 and found.shape == (40, 6)
    # in blocks of another size, so beside other images, and one by one
    torch.testing.assert_close(found[33:], extractor.features(model, images[33:]))
    with pytest.raises(SvpkitError, match="made by the plugin 'eye', which is not at hand"):
        extractor.load_extractor(moved)


def test_no_key_is_another_where_no_plugin_is_given(files):
    from svpkit.pipeline import walk
    from svpkit.store import Store

    def keys(*overrides):
        found = {}

        def name(function, params, *inputs, label):
            made = Store(files.folder / "none").name(function, params, *inputs, label=label)
            found[label] = (made.key, plain(params))
            return made

        walk(bound(files, *overrides), name)
        return found

    # keys of before this hook: nothing is there but the seed
    own, other = keys(), keys(*GIVEN)
    assert own["extractor"][1] == {"seed": 0} and own["fidelity"][1] == {"seed": 0}
    assert set(own) - set(other) == {"extractor"}
    assert {k for k in own if k in other and own[k] != other[k]} == {"fidelity"}
    wide = keys(*GIVEN, "fidelity.options.wide=6")
    assert wide == other
    # what is chosen by on the way stays the run's own network
    looks = ("generator.train.looks=1", "generator.select={by = 'density', keep = 0.5}")
    own, other = keys(*looks), keys(*looks, *GIVEN)
    assert {k for k in own if own[k] != other[k]} == {"fidelity"}


def test_what_is_wrong_in_a_recipe_is_one_line(files):
    for overrides, said in (
        (("fidelity.plugin='eyes'",), "fidelity.plugin: unknown 'eyes'; did you mean 'eye'"),
        (GIVEN[:1], r"fidelity.options.weights: missing \(path\)"),
        (("fidelity.options={a = 1}",), "fidelity: .*`options` are those of `plugin`"),
        (
            (*GIVEN, "fidelity.model='resnet18'", "fidelity.weights='eye.safetensors'"),
            "fidelity: .*`plugin` .'eye'. or `model` and `weights`, not both",
        ),
        (
            (GIVEN[0], "fidelity.options={weights = 'gone.safetensors'}"),
            "fidelity.options.weights: nothing called 'gone.safetensors' in ",
        ),
        ((GIVEN[0], "fidelity.options={weights = 3}"), "fidelity.options.weights: given 3"),
        ((GIVEN[0], "fidelity.options={weights = ''}"), "fidelity.options.weights: given ''"),
    ):
        with pytest.raises(SvpkitError, match=said) as caught:
            bound(files, *overrides)
        assert "\n" not in str(caught.value)


class Net(torch.nn.Module):
    """Features as a function says, of the pooled images and a weight."""

    def __init__(self, see):
        super().__init__()
        self.see, self.weight = see, torch.nn.Parameter(torch.rand(1, 4))
        self.lost = torch.rand(1, 4)
        self.dropout = torch.nn.Dropout(0.5)

    def features(self, images):
        return self.see(self, images.mean(dim=(2, 3)) @ self.weight)


def use_of(factory, **options):
    return Use(Plugin("extractor", "mine", factory, "pkg", "1", "file"), options)


def saved(folder, see, classes=("disc", "ring")):
    train = ParticleSet.from_arrays(*toy.images(dict.fromkeys(classes, 3)), classes)
    given.save_given(folder, use_of(lambda spec: Net(see)), train)
    return folder


GOOD = {
    "plain": lambda net, x: x,
    "half": lambda net, x: x.half(),
    "dropout": lambda net, x: net.dropout(x),
    "transposed": lambda net, x: x.T.contiguous().T,
}
BAD = {
    "not two axes": (lambda net, x: x[:, :, None], r"\(4, F\) is wanted for 4 .* \(4, 4, 1\)"),
    "another count": (lambda net, x: x[:1], r"returns \(1, 4\)"),
    "none at all": (lambda net, x: x[:, :0], r"returns \(4, 0\)"),
    "no tensor": (lambda net, x: x.numpy(), "a float tensor is wanted, it returns ndarray"),
    "integers": (lambda net, x: x.long(), "a float tensor is wanted, it returns torch.int64"),
    "not finite": (lambda net, x: x / 0, "not all finite"),
    "the batch": (lambda net, x: x - x.mean(dim=0), "what stands beside it"),
    "chance": (lambda net, x: x + torch.rand_like(x), "what stands beside it, or from call"),
    "an error": (lambda net, x: net.gone, "'mine' .pkg 1. raised AttributeError"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_features_come_out_float32_and_the_same(tmp_path, name):
    saved(tmp_path, GOOD[name])
    model = extractor.load_extractor(tmp_path, use_of(lambda spec: Net(GOOD[name])))
    images = toy.images({"bar": 5})[0]
    found = extractor.features(model, images)
    means = torch.from_numpy(images).float().mean(dim=(2, 3)) / 127.5 - 1
    expected = means @ load_file(tmp_path / "extractor.safetensors")["weight"]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert found.is_contiguous()


@pytest.mark.parametrize("name", BAD)
def test_bad_features_are_one_line_that_names_the_plugin(tmp_path, name):
    see, said = BAD[name]
    with pytest.raises(SvpkitError, match=said) as caught:
        saved(tmp_path, see)
    assert "extractor 'mine'" in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_opened_again_is_refused_when_it_is_made(tmp_path):
    made = iter(range(100))

    def other(spec):
        net = Net(lambda net, x: x * net.lost)
        net.lost = torch.full((1, 4), 1.0 + next(made))
        return net

    train = ParticleSet.from_arrays(*toy.images({"disc": 3}), ["disc"])
    with pytest.raises(SvpkitError, match="others once its weights are opened again"):
        given.save_given(tmp_path, use_of(other), train)
    with pytest.raises(SvpkitError, match="'mine': it returns dict, an nn.Module"):
        given.build(use_of(lambda spec: {}), ImageSpec(1, 16, ("a",)))

    def reads(spec, *, weights: Path):
        net = Net(GOOD["plain"])
        net.weight.data += len(weights.read_bytes())
        return net

    (tmp_path / "w").write_text("four")
    with pytest.raises(SvpkitError, match="'mine': it cannot be opened again .* None") as caught:
        given.save_given(tmp_path, use_of(reads, weights=Located(tmp_path / "w", "x")), train)
    assert "\n" not in str(caught.value)


def test_an_extractor_without_weights_works_too(tmp_path):
    class Grey(torch.nn.Module):
        def features(self, images):
            return torch.stack([images.mean(dim=(1, 2, 3)), images.std(dim=(1, 2, 3))], dim=1)

    train = ParticleSet.from_arrays(*toy.images({"disc": 3}), ["disc"])
    given.save_given(tmp_path, use_of(lambda spec: Grey()), train)
    model = extractor.load_extractor(tmp_path, use_of(lambda spec: Grey()))
    assert extractor.features(model, train.images()).shape == (3, 2)


def factory(
    spec,
    *,
    one: Path,
    two: Annotated[Path, "a folder"],
    three: Path | None = None,
    four: Annotated[Path | None, "told"] = None,
    text: str = "one",
):
    """Takes paths."""


def test_a_path_is_found_beside_the_recipe_then_under_the_data_root(tmp_path):
    known = options_of(factory)
    assert [n for n, o in known.items() if o.is_path] == ["one", "two", "three", "four"]
    assert {type_name(known[n].type) for n in ("one", "two", "three", "four")} == {"path"}
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "b.txt").write_text(folder.name)
    (there / "a.txt").write_text("a")
    checked = check_options(known, {"one": "a.txt", "two": "deep"}, "x.options")
    found = located(known, checked, [here, there], "x.options")
    assert found["one"].path == there / "a.txt" and found["two"].path == here / "deep"
    assert found["three"] is None and found["four"] is None and found["text"] == "one"
    with pytest.raises(SvpkitError, match="x.options.one: nothing called 'a.txt' in .*here"):
        located(known, checked, [here], "x.options")


KINDS = {
    "classifier": """
@hookimpl
def register_classifiers(register):
    register("mine", mine)
""",
    "generator": """
@hookimpl
def register_generators(register):
    register("mine", mine)
""",
    "strategy": """
@hookimpl
def register_strategies(register):
    register("mine", mine)
""",
    "reader": '''
class Reader:
    def read(self, path: Path, *, table: Path, more: Path | None = None):
        """Read."""
        return [type(table).__name__, table.read_text(), more]
    def sniff(self, path): return False
@hookimpl
def register_readers(register):
    register("mine", Reader())
''',
}
HEAD = '''
from pathlib import Path
from svpkit import hookimpl
def mine(*spec, table: Path, more: Path | None = None):
    """Take a table."""
    return [type(table).__name__, table and table.read_text(), more]
'''


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_works_for_every_kind_and_its_key_is_its_content(tmp_path, kind):
    (tmp_path / "plugin.py").write_text(HEAD + KINDS[kind])
    registry = discover(files=[tmp_path / "plugin.py"])
    said = []
    for place, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "table.csv").write_text(text)
        use = registry.under([tmp_path / place]).use(kind, "mine", {"table": "table.csv"}, "x.y")
        found = list(use(*([tmp_path] if kind == "reader" else [])))
        assert found[0].endswith("Path") and found[1:] == [text, None]
        said.append(use.describe()["options"])
    assert said[0] == said[1] != said[2] and said[0]["more"] is None
    assert set(said[0]["table"]) == {"digest"} and json.dumps(said)
    again = registry.reopen(kind, "mine", said[0], "config.x")
    assert again.options == {"table": None, "more": None}
    with pytest.raises(SvpkitError, match="nothing called 'gone'"):
        registry.use(kind, "mine", {"table": "gone"}, "x.y")


def test_a_model_folder_opens_where_the_file_is_not(tmp_path):
    from svpkit.classify.model import _use

    (tmp_path / "plugin.py").write_text(HEAD + KINDS["classifier"])
    registry = discover(files=[tmp_path / "plugin.py"])
    config = {"plugin": "mine", "options": {"table": {"digest": "abc"}, "more": None}}
    assert _use(registry, "classifier", config, "config.classifier.plugin")() == [
        "NoneType",
        None,
        None,
    ]
    config["options"]["tabel"] = 1
    with pytest.raises(SvpkitError, match="unknown 'tabel'"):
        _use(registry, "classifier", config, "config.classifier.plugin")


def test_a_recipe_resolves_the_paths_of_any_plugin(files, tmp_path):
    (tmp_path / "plugin.py").write_text(HEAD + KINDS["classifier"])
    (files.folder / "table.csv").write_text("here")
    values = validate(
        {
            "name": "x",
            "data": {"reader": "folder", "path": str(files.folder / "data"), "test": 0.2},
            "classifier": {"plugin": "mine", "options": {"table": "table.csv"}},
        },
        "x",
    )
    from svpkit.bind import bind

    registry = discover(files=[tmp_path / "plugin.py"])
    done = bind(values, registry, folder=tmp_path, data_root=files.folder)
    assert done.classifier.options["table"].path == files.folder / "table.csv"
    with pytest.raises(SvpkitError, match="recipe: classifier.options.table: nothing called"):
        bind(values, registry, folder=tmp_path, data_root=tmp_path)
