"""The four types against other roads: geometry, exact spheres, split step, segmentation."""

import ast
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull, HalfspaceIntersection

import svpkit_particles
from svpkit_particles import draw, light
from svpkit_particles.bodies import Arc

KINDS = {
    "glass": svpkit_particles.Glass(),
    "fibre": svpkit_particles.Fibre(),
    "rubber": svpkit_particles.Rubber(),
    "latex": svpkit_particles.Latex(),
}
COMPACT = ("glass", "rubber", "latex")
SEEDS = np.arange(40, dtype=np.uint64) + np.uint64(3 << 32)
WATER = 1.333


def segmented(image, optics, darker):
    """ECD (um) of what is darker than the background by more than `darker`, holes filled."""
    step = optics.axis[1] - optics.axis[0]
    mask = ndimage.binary_fill_holes(1 - image > darker)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    largest = max((np.sum(parts == k) for k in range(1, count + 1)), default=0)
    return 2 * np.sqrt(largest * step**2 / np.pi)


def without_aberration(optics):
    return replace(optics, instrument=replace(optics.instrument, astigmatism=0.0, coma=0.0))


# What the host asks of a particle type


@pytest.mark.parametrize("name", KINDS)
def test_image_is_a_function_of_its_seed(optics, name):
    whole, rows = KINDS[name].draw(SEEDS, optics)
    some = np.array([31, 5, 6])
    part, part_rows = KINDS[name].draw(SEEDS[some], optics)
    assert whole.shape == (40, optics.size, optics.size) and whole.dtype == np.float32
    assert np.isfinite(whole).all() and whole.min() >= 0
    assert np.abs(whole[some] - part).max() < 1e-4
    assert part_rows == [pytest.approx(rows[i]) for i in some]
    other, _ = KINDS[name].draw(SEEDS + np.uint64(1 << 32), optics)
    assert np.abs(other - whole).mean(axis=(1, 2)).min() > 1e-3


def test_a_module_of_the_host_is_never_imported():
    for path in Path(svpkit_particles.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            assert module != "svpkit" or names == ["hookimpl"]
            assert not module.startswith("svpkit.")
            assert not any(name.startswith("svpkit.") for name in names)


def test_entry_point_loads():
    try:
        points = metadata.distribution("svpkit-particles").entry_points
    except metadata.PackageNotFoundError:
        pytest.skip("svpkit-particles is not installed")
    (point,) = points.select(group="svpkit")
    assert point.load() is svpkit_particles


# Shapes


def polyhedron(seed, fine, thin=False):
    body = draw.flake(fine.random([seed])[0], thin)
    spaces = np.column_stack([body.normals, -body.offsets])
    return body, HalfspaceIntersection(spaces, np.zeros(3)).intersections


@pytest.mark.parametrize("seed", range(6))
def test_flake_has_the_volume_and_the_shadow_of_the_polyhedron(fine, seed):
    body, corners = polyhedron(seed, fine)
    axis = np.linspace(-13, 13, 1301)
    low, high = body.surfaces(*np.meshgrid(axis, axis))
    cell = (axis[1] - axis[0]) ** 2
    volume = np.maximum(high - low, 0).sum() * cell
    assert volume == pytest.approx(ConvexHull(corners).volume, rel=0.01)
    shadow = ConvexHull(corners[:, :2]).volume  # in the plane, qhull's volume is the area
    assert (high > low).sum() * cell == pytest.approx(shadow, rel=0.01)
    assert light.layers(body, fine)[2] == pytest.approx(shadow, rel=0.06)


def through(body, optics):
    """What a body makes of light through its middle: the changes of all layers, added."""
    even, odd, _ = light.layers(body, optics)
    middle = len(optics.object_axis) // 2
    return 1 + np.sum(np.concatenate([even, odd])[:, middle, middle].astype(complex) - 1)


def test_plate_turns_the_phase_by_its_path(fine):
    """A plate of thickness h, tilted by t, is h / cos t thick along the light."""
    tilt, thick = np.radians(40), 0.7
    normals = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    sides = np.array([3, 3, 3, 3, thick / 2, thick / 2])
    plate = draw.Polyhedron(1.52 + 0j, normals @ draw._turned(tilt, 0.3), sides)
    path = 2 * np.pi / 0.47 * (1.52 - WATER) * thick / np.cos(tilt)
    assert through(plate, fine) == pytest.approx(np.exp(1j * path), abs=1e-3)


def straight(**changed):
    shape = {
        "index": 1.50 + 0j, "radius": 1.5, "length": 18.0, "seen": 2.0, "bend": -30.0,
        "turn": 0.8, "x": 1.0, "y": -2.0, "slope": 0.0, "wave": (0.3, 0.3, 1.0), "flatness": 1.0,
    }  # fmt: skip
    return Arc(**(shape | changed))


@pytest.mark.parametrize("bend", [-30.0, 12.0, 500.0])
def test_fibre_has_its_length_and_passes_through_its_point(wide, bend):
    body = straight(bend=bend)
    assert light.layers(body, wide)[2] == pytest.approx(body.shadow, rel=0.03)
    plain = straight(bend=bend, wave=(0.0, 0.3, 0.0))
    for place, seen in (((1.0, -2.0), 2.0), (plain.middle, 0.0)):
        length, beside = plain.along(*map(np.array, place))
        assert length == pytest.approx(seen, abs=1e-9)
        assert beside == pytest.approx(0, abs=1e-9)


def test_rubber_lets_through_what_beer_and_lambert_say(fine):
    body = draw.chunk(fine.random([4])[0], 0.47)
    left = np.abs(through(body, fine)) ** 2
    absorption = 4 * np.pi * body.index.imag / 0.47
    assert draw.OPAQUE[0] <= absorption <= draw.OPAQUE[1]
    assert np.log(left) == pytest.approx(-absorption * 2 * body.height, rel=0.05)


# Light


@dataclass
class Ball:
    radius: float
    index: complex

    def surfaces(self, x, y):
        half = np.sqrt(np.maximum(self.radius**2 - x**2 - y**2, 0))
        return -half, half


@pytest.mark.parametrize(
    "radius, index, bound", [(1.0, 1.40, 1.5), (2.0, 1.38, 3), (1.0, 1.52, 4), (2.0, 1.52, 8)]
)
def test_layers_of_a_ball_scatter_as_the_exact_sphere(fine, radius, index, bound):
    """Grey levels rms out of 176; the index of glass is the hard case."""
    focus = np.array([-6.0, 0.0, 12.0])
    exact = fine.image(np.repeat(fine.spheres([radius], [index]), 3, 0), focus)
    spectra, shadow = light.scatter([Ball(radius, complex(index))], fine)
    image = fine.image(np.repeat(spectra, 3, 0), focus)
    grey = 176 * np.sqrt(((image - exact) ** 2).mean((1, 2)))
    assert grey.max() < bound
    assert shadow[0] == pytest.approx(np.pi * radius**2, rel=0.1)


def cut(body, optics, spacing, fine=3):
    """A stack of slabs through a body, for the split step: another road than its layers."""
    axis, step = optics.object_axis, np.diff(optics.object_axis[:2])[0]
    part = (np.arange(fine) - (fine - 1) / 2) * step / fine
    inner = (axis[:, None] + part).ravel()
    low, high = body.surfaces(*np.broadcast_arrays(inner, inner[:, None]))
    count = 2 * int(np.ceil(np.abs([low, high])[:, high > low].max() / spacing)) + 1
    wave = 2j * np.pi / optics.instrument.wavelength_um * (body.index - WATER)
    stack = []
    for bottom in (np.arange(count) - count / 2) * spacing:
        path = np.minimum(high, bottom + spacing) - np.maximum(low, bottom)
        whole = np.exp(wave * np.maximum(np.where(high > low, path, 0), 0))
        stack.append(whole.reshape(len(axis), fine, len(axis), fine).mean((1, 3)))
    return np.array(stack)


@pytest.mark.parametrize(
    "name, least", [("plate", 0.98), ("lamella", 0.95), ("fibre", 0.95), ("rubber", 0.97)]
)
def test_layers_agree_with_split_step(fine, name, least):
    """Correlation with the exact image; a lamella in focus has next to no contrast."""
    body = {
        "plate": draw.flake(fine.random([0])[0], False),
        "lamella": draw.flake(fine.random([9])[0], True),
        "fibre": straight(radius=1.0, slope=0.15, bend=200.0, length=15.0, seen=0.0),
        "rubber": draw.chunk(fine.random([3])[0], 0.47),
    }[name]
    exact = fine.slices(cut(body, fine, 0.5)[None], 0.5, exact=True)
    quick, _ = light.scatter([body], fine)
    for focus in (-6.0, 0.0, 10.0):
        images = [fine.image(spectra, [focus]).ravel() for spectra in (exact, quick)]
        assert np.corrcoef(*images)[0, 1] > least


def test_bead_is_the_hosts_sphere(optics):
    clear = without_aberration(optics)
    images, rows = KINDS["latex"].draw(SEEDS, clear)
    at = [(row["x_um"], row["y_um"], row["focus_um"]) for row in rows]
    moved = [(x, y, 0) for x, y, _ in at]
    spheres = clear.spheres(
        [row["radius_um"] for row in rows], [row["refractive_index"] for row in rows], moved
    )
    assert np.abs(clear.image(spheres, [z for _, _, z in at]) - images).max() < 2e-3
    sizes = np.array([row["ecd_um"] for row in rows])
    nominal = np.array([float(row["subtype"].removesuffix("um")) for row in rows])
    assert set(nominal) == {2.0, 5.0, 10.0} and np.abs(sizes / nominal - 1).max() < 0.05


@pytest.mark.parametrize(
    "wavelength, index",
    [(0.4861, 1.606), (0.5876, 1.592), (0.6328, 1.587), (0.833, 1.577), (1.052, 1.572)],
)
def test_index_of_polystyrene_is_the_measured_one(wavelength, index):
    assert draw.polystyrene(wavelength) == pytest.approx(index, abs=2e-3)


# Images


@pytest.mark.parametrize("name", COMPACT)
def test_background_is_one_around_compact_particles(wide, name):
    images, _ = KINDS[name].draw(SEEDS[:12], wide)
    border = np.concatenate([images[:, :20].ravel(), images[:, -20:].ravel()])
    assert border.mean() == pytest.approx(1, abs=2e-3)
    assert np.abs(border - 1).max() < 0.1


def test_background_is_one_beside_a_fibre(wide):
    body = straight(length=150.0, bend=80.0)
    spectra, _ = light.scatter([body], wide)
    image = wide.image(spectra, [5.0])[0]
    _, beside = body.along(*np.broadcast_arrays(wide.axis, wide.axis[:, None]))
    far = np.abs(beside) > 15
    assert far.sum() > 10_000
    assert image[far].mean() == pytest.approx(1, abs=5e-3)
    assert np.abs(image[far] - 1).max() < 0.1
    assert np.abs(image[np.abs(beside) < 1.5] - 1).mean() > 0.2


@pytest.mark.parametrize(
    "name, subtypes, darker, median, most",
    [
        ("rubber", ("chunk",), 0.7, 0.04, 0.08),  # 0.3 of the light is left at a coherent edge
        ("latex", ("5um", "10um"), 0.7, 0.05, 0.10),
        ("glass", ("plate",), 0.15, 0.15, 0.30),
    ],
)
def test_truth_is_the_size_that_is_seen(fine, name, subtypes, darker, median, most):
    """In focus, an outline found by threshold has the ECD of the truth, within these bounds."""
    clear = without_aberration(fine)
    images, rows = KINDS[name].draw(np.arange(160, dtype=np.uint64), clear)
    sharp = [
        i for i, row in enumerate(rows) if abs(row["focus_um"]) < 4 and row["subtype"] in subtypes
    ]
    seen = np.array([segmented(images[i], clear, darker) for i in sharp])
    ratio = seen / [rows[i]["ecd_um"] for i in sharp]
    assert len(ratio) > 15
    assert np.median(ratio) == pytest.approx(1, abs=median)
    assert np.mean(np.abs(ratio - 1) < most) > 0.9


def test_truth_of_whole_fibres_is_the_size_that_is_seen(wide, tiny):
    """A threshold adds up to half a resolution element, 0.6 um, to either side of a thin fibre."""
    seeds = np.arange(100, dtype=np.uint64)
    _, rows = KINDS["fibre"].draw(seeds, tiny)  # the truth does not depend on the size of the crop
    length = [np.pi / 4 * row["ecd_um"] ** 2 / (2 * row["radius_um"]) for row in rows]
    whole = [i for i in seeds if length[i] < 32 and abs(rows[i]["focus_um"]) < 5]
    clear = without_aberration(wide)
    images, rows = KINDS["fibre"].draw(np.array(whole, np.uint64), clear)
    ratio = [
        segmented(image, clear, 0.15) / row["ecd_um"]
        for image, row in zip(images, rows, strict=True)
    ]
    assert len(ratio) >= 8
    assert 1.0 < np.median(ratio) < 1.25
    assert 0.85 < min(ratio) and max(ratio) < 1.45


def test_rubber_is_dark(optics):
    images, rows = KINDS["rubber"].draw(SEEDS, optics)
    x, y = np.broadcast_arrays(optics.axis, optics.axis[:, None])
    for image, row in zip(images, rows, strict=True):
        core = np.hypot(x - row["x_um"], y - row["y_um"]) < 0.5 * row["radius_um"]
        assert image.min() < 0.5
        assert abs(row["focus_um"]) > 8 or np.median(image[core]) < 0.5


def test_glass_and_fibres_take_no_light_away(wide):
    """They only bend it: less goes through the pupil, but nothing like what rubber takes."""
    lost = {}
    for name in ("glass", "rubber"):
        images, rows = KINDS[name].draw(SEEDS[:16], wide)
        step = wide.axis[1] - wide.axis[0]
        missing = (1 - images).sum((1, 2)) * step**2
        lost[name] = np.median(missing / [np.pi / 4 * row["ecd_um"] ** 2 for row in rows])
    assert lost["glass"] < 0.5 < 0.8 < lost["rubber"] < 1.3
