"""The microscope: from what a particle scatters to the intensity on the sensor's grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svpkit.simulate import scatter
from svpkit.simulate.instruments import InstrumentProfile

Array = NDArray[Any]

SOURCES = 32  # condenser points: 0.8 grey levels rms from the limit of many
ANGLES = 1024  # samples of a scattering amplitude over the pupil


@dataclass(frozen=True)
class Optics:
    """One instrument, one crop: makes intensities of spheres and of phase objects.

    A particle type draws its parameters with `random`, asks `spheres` or `slices` for what the
    particle scatters, adds such answers to put several particles into one field, and hands the sum
    to `image`. Lengths are um; x is the column, y the row, both from the centre of the crop;
    z is along the light. Abbe imaging, partially coherent: the intensity is the mean over points
    of the condenser's disc, each a plane wave that is periodic on the field's period.

    Periodic on `period_um`, larger than the crop: what is given on `object_axis` and reaches the
    end of the period goes on at the other end, and if it does not match there, the step scatters
    into the crop. A body that is larger than the crop has to fade beyond it, before the period
    ends; what is moved by `at` stays within it.
    """

    instrument: InstrumentProfile
    pixels: int  # side of the crop
    binning: int = 1  # sensor pixels joined into one, along each side

    @property
    def um_per_px(self) -> float:
        """Side of one pixel of the finished image."""
        return self.instrument.um_per_px * self.binning

    @property
    def field_um(self) -> float:
        """Side of the crop."""
        return self.um_per_px * self.pixels

    @cached_property
    def oversampling(self) -> int:
        """Grid points along a pixel: enough for the interference of direct and scattered light."""
        na = self.instrument.na_objective + self.instrument.na_condenser
        return int(np.ceil(self.um_per_px * 2 * na / self.instrument.wavelength_um - 1e-9))

    @property
    def size(self) -> int:
        """Side M of the simulation grid: the crop and one pixel around it."""
        return (self.pixels + 2) * self.oversampling

    @cached_property
    def axis(self) -> Array:
        """Positions (M,) of the simulation grid along x and along y."""
        step = self.um_per_px / self.oversampling
        return (np.arange(self.size) - (self.size - 1) / 2) * step

    @property
    def period_um(self) -> float:
        """Period of the field: the crop and the reach of light defocused by 40 um."""
        reach = 40 * self.instrument.na_objective / self.instrument.medium_index
        return self.field_um + max(reach, 16 - self.field_um / 2)

    @cached_property
    def object_axis(self) -> Array:
        """Positions (W,) of the grid on which phase objects are given, 0.3 um apart or less."""
        count = 8 * int(np.ceil(self.period_um / 0.3 / 8))
        return (np.arange(count) - count // 2) * (self.period_um / count)

    @cached_property
    def wavenumber(self) -> float:
        """Wave number in the medium, rad/um."""
        return 2 * np.pi * self.instrument.medium_index / self.instrument.wavelength_um

    @cached_property
    def _orders(self) -> Array:
        """Diffraction orders (K,) that can pass the pupil."""
        profile = self.instrument
        last = int(profile.na_objective / profile.wavelength_um * self.period_um)
        return np.arange(-last, last + 1)

    @cached_property
    def _sources(self) -> tuple[Array, Array, Array]:
        """Orders (J,) of the condenser's points along y and x, and their weights: a sunflower."""
        profile = self.instrument
        rank = np.arange(SOURCES)
        radius = profile.na_condenser / profile.wavelength_um * np.sqrt((rank + 0.5) / SOURCES)
        angle = rank * np.pi * (3 - np.sqrt(5))
        points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1) * self.period_um
        points, counts = np.unique(np.rint(points).astype(int), axis=0, return_counts=True)
        return points[:, 0], points[:, 1], counts / SOURCES

    def _kz(self, rows: Array, columns: Array) -> Array:
        """Return the axial wave number of diffraction orders."""
        lateral = (2 * np.pi / self.period_um) ** 2 * (rows**2 + columns**2)
        return np.sqrt(np.maximum(self.wavenumber**2 - lateral, 0))

    @cached_property
    def _pupil(self) -> tuple[Array, Array, Array]:
        """Radius (1 at the edge), azimuth and axial wave number of the orders, each (K, K)."""
        rows, columns = np.meshgrid(self._orders, self._orders, indexing="ij")
        edge = self.instrument.na_objective / self.instrument.wavelength_um * self.period_um
        return np.hypot(rows, columns) / edge, np.arctan2(rows, columns), self._kz(rows, columns)

    @cached_property
    def _angle_index(self) -> Array:
        """Position (J, K, K) in the table of scattering angles."""
        rows, columns = (source[:, None, None] for source in self._sources[:2])
        scale = (2 * np.pi / self.period_um) ** 2
        across = rows * self._orders[:, None] + columns * self._orders
        along = self._kz(rows, columns) * self._pupil[2]
        angle = np.arccos(np.clip((scale * across + along) / self.wavenumber**2, -1, 1))
        return np.minimum(
            np.rint(angle * (ANGLES - 1) / self.instrument.widest), ANGLES - 1
        ).astype(np.intp)

    def random(self, seeds: Iterable[int], stream: int = 0) -> list[np.random.Generator]:
        """Return one generator a seed; another `stream` (a number) is independent of the first."""
        keys = [np.array([seed, stream], np.uint64) for seed in seeds]
        return [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def placement(
        self, rngs: Sequence[np.random.Generator], *depths: tuple[float, float, float]
    ) -> tuple[Array, Array, Array]:
        """Draw planes of focus (n,), places in the crop (n, 2) and aberrations (n, 4) for `image`.

        One of each from a generator a particle, as the instrument spreads them. `depths`: the
        planes of focus as a mixture, each its share, mean and sd in um; they are cut at -25 and
        40 um. Without depths all is at the instrument's own shift of focus, and that takes nothing
        from the generators.
        """
        profile = self.instrument
        focus = _depths(rngs, depths, profile.focus_spread) if depths else np.zeros(len(rngs))
        draws = np.array([rng.standard_normal(6) for rng in rngs])
        furthest = 1.2 + profile.offset_um
        at = np.clip(profile.offset_um * draws[:, :2], -furthest, furthest)
        size = np.array([profile.astigmatism] * 2 + [profile.coma] * 2) / np.sqrt(2)
        return focus + profile.focus_um, at, size * draws[:, 2:]

    def spheres(self, radius: ArrayLike, index: ArrayLike, at: ArrayLike | None = None) -> Array:
        """Return what spheres scatter: spectra (n, J, K, K) complex64, exact Lorenz-Mie.

        `radius` (n,) um, up to about 8; `index` (n,) refractive index; `at` (n, 3) centres (x, y,
        z), the crop's centre without. The amplitude is the mean of the two polarisations.
        """
        radius = np.asarray(radius, float)
        relative = np.asarray(index) / self.instrument.medium_index
        table = scatter.mean_amplitude(
            relative, self.wavenumber * radius, self.instrument.widest, ANGLES
        )
        scale = -2 * np.pi / (self.wavenumber * self.period_um**2) / self._pupil[2]
        spectra = table.astype(np.complex64)[:, self._angle_index]
        spectra *= scale.astype(np.float32)
        return spectra if at is None else self._moved(spectra, np.asarray(at, float))

    def _moved(self, spectra: Array, at: Array) -> Array:
        """Shift scatterers, first at the origin, to `at` (n, 3)."""
        unit = 2 * np.pi / self.period_um
        rows, columns, _ = self._sources
        x, y, z = (at[:, i, None, None] for i in range(3))
        orders = self._orders
        leaving = unit * (orders * x + orders[:, None] * y) + self._pupil[2] * z
        coming = unit * (columns * x + rows * y) + self._kz(rows, columns) * z
        spectra *= np.exp(-1j * leaving).astype(np.complex64)[:, None]
        spectra *= np.exp(1j * coming[:, 0]).astype(np.complex64)[:, :, None, None]
        return spectra

    def slices(
        self,
        transmission: Array,
        spacing_um: float = 2.0,
        exact: bool = False,
        at: ArrayLike | None = None,
    ) -> Array:
        """Return what thin objects scatter: spectra (n, J, K, K) complex64.

        `transmission` (n, W, W) on `object_axis`, rows along y: exp(i phase), with the phase
        2 pi / wavelength * (index - medium) * thickness, times the amplitude that absorption
        leaves. (n, S, W, W) is a stack `spacing_um` apart, the first nearest the lamp, centred on
        z = 0; `at` (n, 3) moves each object or stack to (x, y, z). What one slice scatters passes
        straight through the next ones, as it does where phases stay near 1 rad; `exact` follows it
        by the split-step method, some 50 times slower.
        """
        stack = transmission[:, None] if transmission.ndim == 3 else transmission
        spectra = self._split_step(stack, spacing_um) if exact else self._stacked(stack, spacing_um)
        return spectra if at is None else self._moved(spectra, np.asarray(at, float))

    def _stacked(self, stack: Array, spacing_um: float) -> Array:
        """Return the spectra of slices, each of which changes what the ones before let through."""
        heights = (np.arange(stack.shape[1]) - (stack.shape[1] - 1) / 2) * spacing_um
        spectra, before = None, None
        for index, height in enumerate(heights):
            crossed = stack[:, index].astype(np.complex64)
            changed = crossed - 1 if before is None else (crossed - 1) * before
            before = crossed if before is None else crossed * before
            spectra = self._thin(changed, height, spectra)
        assert spectra is not None
        return spectra

    def _thin(self, changed: Array, height: float, spectra: Array | None) -> Array:
        """Add to `spectra` what the change (n, W, W) of a wave at a height scatters."""
        rows, columns, _ = self._sources
        reach = int(max(np.abs(rows).max(), np.abs(columns).max()))
        wide = np.arange(self._orders[0] - reach, self._orders[-1] + reach + 1)
        wave = np.exp(-2j * np.pi / self.period_um * np.outer(wide, self.object_axis))
        wave = (wave / len(self.object_axis)).astype(np.complex64)
        whole = wave @ changed @ wave.T
        count = len(self._orders)
        back = np.exp(1j * height * (self.wavenumber - self._pupil[2])).astype(np.complex64)
        start = np.exp(1j * height * (self._kz(rows, columns) - self.wavenumber)).astype("c8")
        if spectra is None:
            spectra = np.zeros((len(whole), len(rows), count, count), np.complex64)
        for j, (row, column) in enumerate(zip(reach - rows, reach - columns, strict=True)):
            part = whole[:, row : row + count, column : column + count]
            spectra[:, j] += part * (back * start[j]) if height else part
        return spectra

    def _split_step(self, transmission: Array, spacing_um: float) -> Array:
        """Return the spectra of stacks of slices, (n, J, K, K)."""
        side, depth = len(self.object_axis), spacing_um * (transmission.shape[1] - 1) / 2
        orders = np.rint(np.fft.fftfreq(side) * side).astype(int)
        kz = self._kz(orders[:, None], orders[None])
        hop = np.exp(1j * kz * spacing_um) * (kz > 0)
        keep = np.ix_(self._orders % side, self._orders % side)
        turn = np.exp(2j * np.pi * (side // 2) / side * self._orders)
        back = (np.exp(-1j * kz * depth) / side**2)[keep] * np.outer(turn, turn)
        spectra = np.empty((len(transmission), len(self._sources[0]), *back.shape), np.complex64)
        for j, (row, column) in enumerate(zip(*self._sources[:2], strict=True)):
            phase = 2 * np.pi / self.period_um * self.object_axis
            wave = np.exp(1j * (row * phase[:, None] + column * phase))
            start = np.exp(-1j * self._kz(row, column) * depth)
            field = scatter.multislice(transmission, wave * start, hop)
            spectra[:, j] = np.fft.fft2(field)[..., *keep] * back
            spectra[:, j, row - self._orders[0], column - self._orders[0]] -= 1
        return spectra

    def image(
        self,
        spectra: Array,
        focus: ArrayLike,
        at: ArrayLike | None = None,
        aberration: ArrayLike | None = None,
    ) -> Array:
        """Return the intensity (n, M, M) float32, 1 where nothing scatters.

        `spectra` (n, J, K, K): what is in the field, sums of `spheres` and `slices`; `focus` (n,)
        the plane in focus, z in um, > 0 behind the particle; `at` (n, 2) moves the field (x, y);
        `aberration` (n, 4) waves of astigmatism (0, 45 degrees) and coma (x, y), Zernike terms.
        """
        passing = self._passing(np.asarray(focus, float), at, aberration)
        rows, columns, weights = self._sources
        rows, columns = rows - self._orders[0], columns - self._orders[0]
        wave = np.exp(2j * np.pi / self.period_um * np.outer(self.axis, self._orders))
        wave = wave.astype(np.complex64)
        strength = np.sqrt(weights).astype(np.float32)
        intensity = np.empty((len(spectra), self.size, self.size), np.float32)
        for i, spectrum in enumerate(spectra):  # one at a time: it stays in the processor's cache
            field = spectrum.astype(np.complex64) * passing[i]
            field[range(len(rows)), rows, columns] += passing[i][rows, columns]
            field *= strength[:, None, None]
            field = (wave @ (field @ wave.T)).view(np.float32)
            intensity[i] = np.square(field, out=field).sum(0).reshape(*intensity[i].shape, 2).sum(2)
        return intensity

    def _passing(self, focus: Array, at: ArrayLike | None, aberration: ArrayLike | None) -> Array:
        """Return the pupil function with defocus, shift and aberration, (n, K, K) complex64."""
        radius, azimuth, kz = self._pupil
        phase = (kz - self.wavenumber) * focus[:, None, None]
        if at is not None:
            x, y = np.asarray(at, float).T[:, :, None, None] * (2 * np.pi / self.period_um)
            phase = phase - x * self._orders - y * self._orders[:, None]
        if aberration is not None:
            comatic = np.sqrt(8) * (3 * radius**3 - 2 * radius)
            square = np.sqrt(6) * radius**2
            shapes = np.stack(
                [
                    square * np.cos(2 * azimuth),
                    square * np.sin(2 * azimuth),
                    comatic * np.cos(azimuth),
                    comatic * np.sin(azimuth),
                ]
            )
            phase = phase + 2 * np.pi * np.tensordot(np.asarray(aberration, float), shapes, 1)
        return (np.exp(1j * phase) * (radius <= 1)).astype(np.complex64)


def _depths(
    rngs: Sequence[np.random.Generator], depths: Sequence[tuple[float, float, float]], spread: float
) -> Array:
    """Draw planes of focus (n,) from a mixture of shares, means and sd (um)."""
    upto = np.cumsum([share for share, _, _ in depths])[:-1]
    draws = np.array([(rng.random(), rng.standard_normal()) for rng in rngs])
    mean, sd = np.array(depths)[np.searchsorted(upto, draws[:, 0], "right"), 1:].T
    return np.clip(mean + sd * draws[:, 1] * spread, -25, 40)
