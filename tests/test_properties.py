"""Junk and mutated files: a value, or one SvpkitError in one line, and nothing else."""

import io
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svpkit.default_plugins.folder import FolderReader
from svpkit.errors import SvpkitError
from svpkit.places import locate, toml_beside, unfit
from svpkit.readers import exports as cells_of
from svpkit.readers.ecotaxa import EcotaxaReader
from svpkit.readers.flowcam import Options
from svpkit.readers.flowcam import read as read_flowcam
from svpkit.readers.ifcb import IfcbReader
from svpkit.readers.labels import read_labels
from svpkit.readers.mfi import MfiReader
from svpkit.readers.pictures import decode
from svpkit.readers.tables import read_table
from svpkit.recipe import Recipe, validate
from svpkit.safe import BadWeights, load_arrays, read_json
from svpkit.suite import load as load_suite
from svpkit.testing import exports
from svpkit.toml import override, read_toml, to_toml

SCRATCH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"


def one_line(call, *also):
    try:
        return call()
    except (SvpkitError, *also) as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1, str(error)
        return None


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
FIELDS = [*Recipe.model_fields]
GOOD = tomllib.loads(RECIPE.read_text())


def dotted(values, before=""):
    for key, value in values.items():
        yield f"{before}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{before}{key}.")


@st.composite
def mutated(draw, raw):
    """Return a file with a few of its bytes gone, doubled, or others."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        n, new = draw(st.integers(0, 40)), draw(st.binary(max_size=20))
        raw = raw[:at] + new + raw[at + n :]
    return raw


def raw_or_mutated(raw):
    return st.binary(max_size=400) | mutated(raw)


@given(st.dictionaries(st.sampled_from(FIELDS) | TEXTS, JUNK, max_size=6))
def test_junk_is_no_recipe(values):
    one_line(lambda: validate(values, "r.toml"))


@given(st.sampled_from(sorted(dotted(GOOD))), JUNK)
def test_a_recipe_with_one_value_of_junk(key, value):
    values = tomllib.loads(RECIPE.read_text())
    *path, last = key.split(".")
    here = values
    for part in path:
        here = here[part]
    here[last] = value
    found = one_line(lambda: validate(values, "r.toml"))
    if found is not None:
        assert validate(found.model_dump(), "again") == found


@given(raw=raw_or_mutated(RECIPE.read_bytes()))
@settings(suppress_health_check=SCRATCH)
def test_bytes_as_a_recipe(tmp_path, raw):
    path = tmp_path / "r.toml"
    path.write_bytes(raw)
    values = one_line(lambda: read_toml(path))
    if values is not None:
        one_line(lambda: validate(values, "r.toml"))
        one_line(lambda: load_suite(path))


@given(change=TEXTS | st.builds("{}={}".format, st.sampled_from(sorted(dotted(GOOD))), TEXTS))
def test_overrides(change):
    values = tomllib.loads(RECIPE.read_text())

    def change_it():
        override(values, change)
        return validate(values, "r.toml")

    one_line(change_it)


@given(
    name=st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "", "nul"])).map("/".join)
)
@settings(suppress_health_check=SCRATCH)
def test_no_path_leaves_its_root(tmp_path, name):
    (tmp_path / "root" / "a").mkdir(parents=True, exist_ok=True)
    (tmp_path / "root" / "a" / "x").touch()
    (tmp_path / "secret").touch()
    found = one_line(lambda: locate(name, [tmp_path / "root"], "data.path"), OSError)
    if found is not None and not Path(name).is_absolute():
        assert not unfit(name)
        assert found.path.resolve().is_relative_to(tmp_path / "root")
    one_line(lambda: toml_beside(tmp_path / "r.toml", name, "extends"))


@given(raw=raw_or_mutated(b"file,label\na.png,x\nb.png,y\n"))
@settings(suppress_health_check=SCRATCH)
def test_bytes_as_a_table(tmp_path, raw):
    path = tmp_path / "t.csv"
    path.write_bytes(raw)
    table = one_line(lambda: read_table(path))
    assert table is None or len(set(table.columns)) == len(table.columns)
    one_line(lambda: read_labels(path))
    one_line(lambda: list(cells_of.cells(path)))


def picture_bytes(form):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((12, 12)).save(file, format=form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "JPEG"])
def test_bytes_as_a_picture(tmp_path, form):
    @given(raw=raw_or_mutated(picture_bytes(form)))
    def check(raw):
        path = tmp_path / "x.png"
        path.write_bytes(raw)
        found = cells_of.picture(tmp_path, path.name)
        if isinstance(found, str):
            assert len(found.splitlines()) == 1 and str(tmp_path) not in found
        else:
            assert found.dtype in ("uint8", "uint16") and found.ndim in (2, 3)
            assert decode(path)[0].shape == found.shape

    check()


def _flowcam(folder):
    (folder / "c.tif").write_bytes(picture_bytes("TIFF"))
    names = ["id|int32", "collage_file|string", *(f"image_{c}|int32" for c in "xywh")]
    rows = [f"{i}|c.tif|0|{i}|5|5" for i in range(4)]
    (folder / "r.lst").write_text("\n".join(["017", "num-fields|6", *names, *rows]) + "\n")


READERS = {
    "ifcb": (exports.ifcb, "*.adc", lambda path: IfcbReader().read(path)),
    "ifcb-header": (exports.ifcb, "*.adc", lambda path: IfcbReader().read(path)),
    "ecotaxa": (exports.ecotaxa, "*.tsv", lambda path: EcotaxaReader().read(path)),
    "mfi": (exports.mfi, "*.csv", lambda path: MfiReader().read(path, crops="{particle}.png")),
    "flowcam": (_flowcam, "*.lst", lambda path: read_flowcam(path, Options())),
    "folder": (exports.class_folders, "00000.png", lambda path: FolderReader().read(path)),
}


@pytest.mark.parametrize("name", sorted(READERS))
def test_exports_with_changed_bytes(tmp_path, name):
    make, pattern, read = READERS[name]
    make(tmp_path)
    file = sorted(tmp_path.rglob(pattern))[0]
    whole = file.read_bytes()

    @given(raw=raw_or_mutated(whole))
    def check(raw):
        file.write_bytes(raw)
        for image, row in one_line(lambda: list(read(tmp_path))) or ():
            assert image is None or isinstance(image, str) or image.dtype in ("uint8", "uint16")
            assert isinstance(row, dict)

    check()


@given(raw=raw_or_mutated(b'{"a": [1, 2, {"b": null}]}'))
@settings(suppress_health_check=SCRATCH)
def test_bytes_as_json_and_as_weights(tmp_path, raw):
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    try:
        assert isinstance(read_json(path), dict)
    except ValueError:
        pass
    try:
        load_arrays(path)
    except BadWeights as error:
        assert len(str(error).splitlines()) == 1


@given(raw=st.integers(0, 200).flatmap(lambda n: st.binary(min_size=n, max_size=n)))
@settings(suppress_health_check=SCRATCH)
def test_weights_with_any_header(tmp_path, raw):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(BadWeights):
        load_arrays(path)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)


@given(
    values=st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.booleans(), NAMES))
)
def test_recipes_are_shown_as_toml_that_reads_back(values):
    assert tomllib.loads(to_toml(values)) == values
