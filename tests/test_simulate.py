"""The simulator against other roads: miepython, the optical theorem, many sources, many slices."""

import miepython
import numpy as np
import pytest

from svpkit.default_plugins import simulated
from svpkit.errors import SvpkitError
from svpkit.simulate import aggregates, camera, objects, scatter
from svpkit.simulate.instruments import INSTRUMENTS
from svpkit.simulate.optics import Optics

MFI, FLOWCAM = INSTRUMENTS["mfi-like"], INSTRUMENTS["flowcam-like"]
GREY = MFI.background
CLASSES = ("protein", "silicone_oil", "air_bubble")
DRAWS = {name: getattr(objects, name) for name in CLASSES}
SEEDS = np.arange(40, dtype=np.uint64) + np.uint64(7 << 32)


@pytest.fixture(scope="module")
def optics():
    return Optics(MFI, 32, 2)


@pytest.fixture(scope="module")
def fine():
    return Optics(MFI, 64, 1)


@pytest.fixture(scope="module")
def kinds():
    found = {}
    simulated.register_particle_types(found.__setitem__)
    return found


def read(kinds, **options):
    options = {"pixels": 32, "binning": 2} | options
    rows = list(simulated.SimulatedReader().read(None, particle_types=kinds, **options))
    return np.stack([image for image, _ in rows]), [row for _, row in rows]


def rms(a, b):
    return GREY * float(np.sqrt(np.mean((a - b) ** 2)))


def share_equal(a, b, tolerance=1):
    return np.mean(np.abs(a.astype(int) - b.astype(int)) <= tolerance)


def every_source(optics):
    """The same optics with every diffraction order of the condenser's disc as a source."""
    whole = Optics(optics.instrument, optics.pixels, optics.binning)
    edge = MFI.na_condenser / MFI.wavelength_um * whole.period_um
    orders, part = np.arange(-int(edge) - 1, int(edge) + 2), (np.arange(15) - 7) / 15
    part_y = part[:, None]
    points = [(y, x) for y in orders for x in orders]
    weights = [np.mean(np.hypot(y + part_y, x + part) <= edge) for y, x in points]
    kept = [(*point, weight) for point, weight in zip(points, weights, strict=True) if weight]
    rows, columns, weight = np.array(kept).T
    sources = rows.astype(int), columns.astype(int), weight / weight.sum()
    whole.__dict__["_sources"] = sources
    return whole


# Lorenz-Mie


@pytest.mark.parametrize("m", [1.55 / 1.33, 1.40 / 1.333, 1 / 1.333, 1.5 + 0.1j])
@pytest.mark.parametrize("x", [0.5, 5.0, 37.3, 500.0])
def test_efficiencies_and_amplitudes_equal_miepython(m, x):
    extinction, scattering = scatter.efficiencies(m, x)
    theirs = miepython.efficiencies_mx(np.conj(m), x)
    assert extinction[0] == pytest.approx(theirs[0], rel=1e-9)
    assert scattering[0] == pytest.approx(theirs[1], rel=1e-9)
    cosine = np.linspace(-1, 1, 31)
    ours = np.array(scatter.mie_amplitudes(m, x, cosine))[:, 0]
    other = np.array(miepython.S1_S2(np.conj(m), x, cosine, norm="wiscombe"))
    assert np.abs(ours - np.conj(other)).max() < 1e-8 * np.abs(ours).max()


def test_efficiency_of_a_known_sphere():
    assert scatter.efficiencies(1.55 / 1.33, 5.0)[0][0] == pytest.approx(1.2602488793, abs=1e-10)


def test_optical_theorem():
    m, x = np.array([1.05, 0.75, 1.2, 1.3 + 0.01j]), np.array([3.0, 60.0, 120.0, 20.0])
    forward = scatter.mie_amplitudes(m, x, 1.0)[0][:, 0]
    assert np.allclose(4 / x**2 * forward.real, scatter.efficiencies(m, x)[0], rtol=1e-12)


def test_table_of_mean_amplitudes_is_the_mean_of_both_polarisations():
    m, x = np.array([1.05, 0.75]), np.array([30.0, 7.0])
    one, two = scatter.mie_amplitudes(m, x, np.cos(np.linspace(0, 0.3, 9)))
    assert np.allclose(scatter.mean_amplitude(m, x, 0.3, 9), (one + two) / 2, rtol=1e-10)


# Imaging


def test_empty_field_is_one(optics):
    spectra = optics.spheres([1.0], [MFI.medium_index])
    image = optics.image(spectra, [12.0], [(0.3, -0.4)], [(0.1, 0, 0, 0.1)])
    assert image.shape == (1, optics.size, optics.size)
    assert np.abs(image - 1).max() < 1e-5
    flat = np.ones((1, len(optics.object_axis), len(optics.object_axis)))
    assert np.abs(optics.image(optics.slices(flat), [5.0]) - 1).max() < 1e-5


def ball(optics, radius, index, spacing):
    """The transmission of a sphere cut into slices, averaged over each grid cell."""
    axis, step = optics.object_axis, np.diff(optics.object_axis[:2])[0]
    count = int(np.ceil(2 * radius / spacing))
    heights = (np.arange(count) - (count - 1) / 2)[:, None, None] * spacing
    thickness = 0
    for dy in (np.arange(5) - 2) / 5 * step:
        for dx in (np.arange(5) - 2) / 5 * step:
            far = (axis + dx) ** 2 + (axis[:, None] + dy) ** 2
            half = np.sqrt(np.maximum(radius**2 - far, 0))
            top, bottom = heights + spacing / 2, heights - spacing / 2
            thickness = thickness + np.maximum(np.minimum(half, top) - np.maximum(-half, bottom), 0)
    phase = 2 * np.pi / MFI.wavelength_um * (index - MFI.medium_index) * thickness / 25
    return np.exp(1j * phase)


@pytest.mark.parametrize("focus", [-7.0, 20.0])
def test_exact_sphere_equals_multislice(fine, focus):
    mie = fine.image(fine.spheres([2.0], [1.40]), [focus])
    spectra = fine.slices(ball(fine, 2.0, 1.40, 0.5)[None], 0.5, exact=True)
    other = fine.image(spectra, [focus])
    assert rms(mie, other) < 1.2
    assert np.corrcoef(mie.ravel(), other.ravel())[0, 1] > 0.9995


@pytest.mark.parametrize("radius, index", [(1.0, 1.40), (1.5, 1.38), (2.0, 1.36)])
def test_one_slice_is_enough_for_thin_objects(fine, radius, index):
    focus = [-7.0, 0.0, 20.0]
    mie = fine.image(np.repeat(fine.spheres([radius], [index]), 3, 0), focus)
    slice_ = fine.slices(ball(fine, radius, index, 2 * radius))
    assert rms(mie, fine.image(np.repeat(slice_, 3, 0), focus)) < 1.5


@pytest.mark.parametrize("gyration, dimension, contrast", [(1.5, 2.1, 0.04), (2.5, 2.1, 0.035)])
def test_slabs_of_a_cluster_agree_with_split_step(fine, gyration, dimension, contrast):
    size = aggregates.MONOMER_UM
    count = np.array([int(aggregates.PREFACTOR * (gyration / size) ** dimension)])
    centres = size * aggregates.grow(fine.random([5]), count, np.array([dimension]))
    centres -= centres.mean(1)
    assert np.sqrt((centres**2).sum(2).mean()) == pytest.approx(gyration, rel=0.1)
    volume = np.full(centres.shape[:2], 4 / 3 * np.pi * size**3)
    fields = []
    for spacing, exact in ((aggregates.SLAB_UM, False), (0.5, True)):
        layer = np.rint(centres[..., 2] / spacing).astype(int)
        most = int(np.abs(layer).max())
        place = centres[..., :2], volume, layer + most, 2 * most + 1, fine.object_axis
        phase = 2 * np.pi / MFI.wavelength_um * contrast * aggregates._splat(*place)
        fields.append(fine.slices(np.exp(1j * phase), spacing, exact=exact))
    for focus in (0.0, 12.0):
        assert rms(*(fine.image(field, [focus]) for field in fields)) < 2.0


@pytest.mark.parametrize("radius, index, focus", [(2.0, 1.0, 32.0), (1.6, 1.4, 20.0)])
def test_condenser_points_stand_for_the_whole_disc(fine, radius, index, focus):
    whole = every_source(fine)
    images = [one.image(one.spheres([radius], [index]), [focus]) for one in (fine, whole)]
    assert rms(*images) < 2.0


def test_rings_of_a_large_bubble_equal_the_whole_condenser():
    wide = every_source(Optics(MFI, 128, 1))
    image = wide.image(wide.spheres([10.0], [1.0]), [30.0])[0]
    far, light = scatter.sphere_profile(MFI, 10.0, 1.0, 30.0)
    distance = np.hypot(wide.axis, wide.axis[:, None])
    assert rms(np.interp(distance, far, light), image) < 2.0


def test_large_bubble_looks_as_measured():
    far, light = scatter.sphere_profile(MFI, 40.0, 1.0, 30.0)
    grey = GREY * light
    assert 60 < grey[far < 10].mean() < 85  # inner disc 60-80
    assert grey[(far > 25) & (far < 37)].max() < 20  # near-black ring 10-20, stray light apart
    assert 205 < grey[(far > 39) & (far < 46)].max() < 240  # bright fringe 200-235
    assert grey[far > 50].mean() == pytest.approx(GREY, abs=3)


def test_small_bubble_has_the_measured_profile():
    """Median over 44 real small bubbles: grey above background, every 1.5 crop pixels."""
    measured = np.array(
        [-116, -115, -112, -104, -92, -74, -56, -36, -18, -3, 8, 15, 17, 18, 16, 12, 7, 3, 1]
    )
    optics = Optics(MFI, 64, 1)
    radius, focus = np.repeat([1.9, 2.0, 2.1, 2.2], 3), np.tile([32.0, 35.0, 38.0], 4)
    images = optics.image(optics.spheres(radius, np.ones(12)), focus)
    distance = np.hypot(optics.axis, optics.axis[:, None]) / MFI.um_per_px
    ring = np.round(distance / 1.5 - 0.5).astype(int)
    profile = np.array([images[:, ring == k].mean(1) for k in range(19)]).T
    errors = np.sqrt(((0.95 * GREY * (profile - 1) - measured) ** 2).mean(1))
    assert errors.min() < 8


def test_places_move_particles_and_particles_add(fine):
    both = np.array([[4.0, -1.0, 3.0]])
    moved = fine.image(fine.spheres([1.0], [1.4], both), [13.0])
    shifted = fine.image(fine.spheres([1.0], [1.4]), [10.0], both[:, :2])
    assert rms(moved, shifted) < 0.05
    far = np.array([[-5.0, 3.0, 0.0]])
    first, second = fine.spheres([0.7], [1.4], both), fine.spheres([0.7], [1.4], far)
    alone = [fine.image(one, [3.0]) - 1 for one in (first, second)]
    assert rms(fine.image(first + second, [3.0]) - 1, sum(alone)) < 1.0


def test_camera_adds_noise_and_integrates(optics):
    intensity = np.ones((40, optics.size, optics.size), np.float32)
    crops = camera.expose(intensity, SEEDS, optics)
    assert crops.shape == (40, 32, 32) and crops.dtype == np.uint8
    assert crops.mean() == pytest.approx(MFI.background, abs=2)
    assert 0.5 < np.median(crops.std((1, 2))) < 4
    assert not np.array_equal(crops[0], crops[1])


# Particle types and the reader


@pytest.mark.parametrize("name", CLASSES)
def test_image_is_a_function_of_its_seed(optics, name):
    whole, rows = DRAWS[name](SEEDS, optics)
    some = np.array([31, 5, 6])
    part, part_rows = DRAWS[name](SEEDS[some], optics)
    assert np.abs(whole[some] - part).max() < 1e-4
    assert part_rows == [pytest.approx(rows[i], nan_ok=True) for i in some]
    other, _ = DRAWS[name](SEEDS + np.uint64(1 << 32), optics)
    assert np.abs(other - whole).mean(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("instrument", sorted(INSTRUMENTS))
def test_reader_numbers_particles(kinds, name, instrument):
    images, rows = read(kinds, instrument=instrument, **{name: 150})
    tail, tail_rows = read(kinds, instrument=instrument, start=140, **{name: 10})
    assert images.shape == (150, 32, 32) and images.dtype == np.uint8
    assert share_equal(images[140:], tail) >= 0.999
    assert [row["id"] for row in tail_rows] == [row["id"] for row in rows[140:]]
    assert len({row["id"] for row in rows}) == 150
    assert rows[7]["id"] == f"{name}-000007-s0"


def test_rows_have_the_same_columns_and_the_truth(kinds):
    _, rows = read(kinds, protein=40, silicone_oil=40, air_bubble=40)
    assert len({tuple(row) for row in rows}) == 1
    assert {row["origin"] for row in rows} == {"simulated"}
    assert {row["source"] for row in rows} == {"simulated:mfi-like"}
    assert {row["um_per_px"] for row in rows} == {0.58}
    single = [row for row in rows if row["subtype"] in ("single", "small", "large")]
    assert all(row["ecd_um"] == 2 * row["radius_um"] for row in single)
    assert all(row["ecd_um"] > 0 and np.isfinite(row["focus_um"]) for row in rows)


def test_crops_of_one_large_bubble_share_a_group(kinds):
    _, rows = read(kinds, air_bubble=160)
    large = [row for row in rows if row["subtype"] == "large"]
    groups = {row["group"] for row in large}
    assert 0.2 < len(large) / 160 < 0.5 and len(groups) <= 160 / objects.CROPS
    for group in groups:
        assert len({row["radius_um"] for row in large if row["group"] == group}) == 1
    assert all(row["group"] == row["id"] for row in rows if row["subtype"] != "large")
    _, others = read(kinds, air_bubble=160, seed=1)
    assert not groups & {row["group"] for row in others}


def test_share_of_pairs_and_of_oil_on_aggregates(kinds):
    _, rows = read(kinds, pixels=8, binning=4, silicone_oil=600)
    kinds_of_oil = [row["subtype"] for row in rows]
    assert kinds_of_oil.count("pair") / 600 == pytest.approx(0.08, abs=0.035)
    assert kinds_of_oil.count("on_aggregate") / 600 == pytest.approx(0.05, abs=0.03)


def test_profiles_are_a_domain_shift(kinds):
    one, _ = read(kinds, instrument="mfi-like", protein=60)
    two, rows = read(kinds, instrument="flowcam-like", protein=60)
    assert np.median(two) - np.median(one) > 15
    noise = [np.median(np.diff(images[:, 0].astype(float)).std(1)) for images in (one, two)]
    assert noise[1] > 1.3 * noise[0]
    assert rows[0]["um_per_px"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"instrument": "mfi-lke"}, "did you mean 'mfi-like'"),
        ({"protien": 3}, "did you mean 'protein'"),
        ({"protein": -1}, "simulated.protein: must be 0 or more, not -1"),
        ({"pixels": 0}, "simulated.pixels: must be 1 to 256, not 0"),
    ],
)
def test_wrong_options_are_said_in_one_line(kinds, options, message):
    with pytest.raises(SvpkitError, match=message) as error:
        simulated.SimulatedReader().read(None, particle_types=kinds, **options)
    assert "\n" not in str(error.value)


def test_a_strangers_particle_type(kinds):
    class Rod:
        def draw(self, seeds, optics):
            axis = optics.object_axis
            inside = (np.abs(axis) < 4) & (np.abs(axis[:, None]) < 1)
            spectra = optics.slices(np.exp(1j * inside[None] * np.ones((len(seeds), 1, 1))))
            return optics.image(spectra, np.full(len(seeds), 9.0)), [{"ecd_um": 4.5} for _ in seeds]

    images, rows = read({"rod": Rod()}, rod=3)
    assert images.shape == (3, 32, 32) and images.std() > 4
    assert rows[0]["subtype"] == "" and np.isnan(rows[0]["radius_um"])
    assert not simulated.SimulatedReader().sniff("anything")


# (focus, x, y) in um of two particles, from before `placement` was one for all types: data sets
# that are there have to be drawn alike
PLACED = {
    ("mfi-like", "protein"): [
        (4.727739862504266, -0.3123722584261691, 0.8744883048383264),
        (3.782710093014785, -0.3471295812607416, 0.3572662621819573),
    ],
    ("mfi-like", "silicone_oil"): [
        (33.991812877413224, 0.45519115476123284, 0.2947543392676339),
        (25.716260194911317, 0.4892444212235183, -0.38188498886860006),
    ],
    ("mfi-like", "air_bubble"): [
        (23.939578267019726, -53.24446033836565, -19.51103802011478),
        (34.85813009745566, 0.4892444212235183, -0.38188498886860006),
    ],
    ("flowcam-like", "protein"): [
        (5.091609793756399, -0.7496934202228058, 2.0987719316119833),
        (9.674065139522178, -0.8331109950257799, 0.8574390292366975),
    ],
    ("flowcam-like", "silicone_oil"): [
        (44.0, 1.0924587714269587, 0.7074104142423213),
        (32.57439029236697, 1.1741866109364438, -0.9165239732846401),
    ],
    ("flowcam-like", "air_bubble"): [
        (27.939578267019726, -53.24446033836565, -19.51103802011478),
        (40.287195146183485, 1.1741866109364438, -0.9165239732846401),
    ],
}


def test_particles_stay_where_they_were(kinds):
    for (instrument, name), known in PLACED.items():
        optics = Optics(INSTRUMENTS[instrument], 8, 2)
        _, rows = kinds[name].draw(np.array([70, 71], np.uint64), optics)
        found = [(row["focus_um"], row["x_um"], row["y_um"]) for row in rows]
        assert np.allclose(found, known, rtol=1e-9, atol=0), (instrument, name)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_placement_is_the_mixture_that_was_asked(instrument):
    optics = Optics(INSTRUMENTS[instrument], 8)
    profile, n = optics.instrument, 4000
    focus, at, aberration = optics.placement(
        optics.random(range(n)), (0.25, -8.0, 1.0), (0.75, 9.0, 0.5)
    )
    assert focus.shape == (n,) and at.shape == (n, 2) and aberration.shape == (n, 4)
    focus = focus - profile.focus_um
    assert np.mean(focus < 0) == pytest.approx(0.25, abs=0.02)
    for part, mean, sd in ((focus[focus < 0], -8.0, 1.0), (focus[focus > 0], 9.0, 0.5)):
        assert part.mean() == pytest.approx(mean, abs=0.15)
        assert part.std() == pytest.approx(sd * profile.focus_spread, rel=0.06)
    assert np.abs(at).max() <= 1.2 + profile.offset_um
    assert at.mean(0) == pytest.approx(0, abs=0.1)
    waves = np.array([profile.astigmatism] * 2 + [profile.coma] * 2) / np.sqrt(2)
    assert aberration.std(0) == pytest.approx(waves, rel=0.06)


def test_placement_of_a_particle_is_its_generators_alone():
    optics = Optics(INSTRUMENTS["mfi-like"], 8)
    deep = ((0.5, 30.0, 10.0), (0.5, 0.0, 20.0))
    whole = optics.placement(optics.random(range(9)), *deep)
    part = optics.placement(optics.random([7, 2]), *deep)
    assert all((w[[7, 2]] == p).all() for w, p in zip(whole, part, strict=True))
    assert whole[0].min() >= -25 and whole[0].max() <= 40
    before = optics.random([7])
    focus, at, _ = optics.placement(before)
    draws = optics.random([7])[0].standard_normal(7)
    assert focus == [0.0] and at[0] == pytest.approx(0.5 * draws[:2])
    assert before[0].standard_normal() == draws[6]


def test_slices_are_moved_as_spheres_are():
    """A thin disc moved is the disc cut elsewhere; along the light, it is another focus."""
    optics = Optics(INSTRUMENTS["mfi-like"], 32)
    axis = optics.object_axis
    step = axis[1] - axis[0]

    def disc(x, y):
        radius = np.hypot(axis - x, axis[:, None] - y)
        return np.exp(0.6j / (1 + np.exp(8 * (radius - 1.5))))[None]

    there = (4 * step, -3 * step)
    moved = optics.slices(disc(0, 0), at=[(*there, 5.0)])
    image = optics.image(moved, [2.0])
    assert np.abs(image - optics.image(optics.slices(disc(*there)), [-3.0])).max() < 2e-3
    stack = np.stack([disc(0, 0)[0]] * 2)[None]
    exact = optics.slices(stack, 1.0, exact=True, at=[(1.0, 0.5, 4.0)])
    quick = optics.slices(stack, 1.0, at=[(1.0, 0.5, 4.0)])
    images = [optics.image(spectra, [0.0]).ravel() for spectra in (exact, quick)]
    assert np.corrcoef(*images)[0, 1] > 0.99
