"""How light scatters: Lorenz-Mie spheres and thin slices, in numpy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svpkit.simulate.instruments import InstrumentProfile

Array = NDArray[Any]

TURN = 2.4  # angle from one ring's source to the next: no symmetry shared with the grid
FINE = 4096  # samples of the amplitude of a sphere of up to 60 um, ten a fringe at the least


def terms(x: float) -> int:
    """Return how many partial waves size parameter `x` needs (Wiscombe 1980)."""
    return int(np.ceil(x + 4.05 * np.cbrt(x) + 2))


def mie_coefficients(m: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """Return the Lorenz-Mie coefficients a_n and b_n of spheres, each (N, terms) complex.

    `m` (N,) is the index relative to the medium, absorbing if its imaginary part is positive; `x`
    (N,) is the size parameter, > 0. Column 0 holds n = 1; beyond its own number of terms a row is
    zero. Bohren and Huffman (1983), equations 4.88 and 4.89.
    """
    m, x = np.atleast_1d(np.asarray(m, complex)), np.atleast_1d(np.asarray(x, float))
    m, x = np.broadcast_arrays(m, x)
    own = np.array([terms(v) for v in x])
    n = np.arange(1, own.max() + 1)[:, None]
    slope = _log_derivative(m * x, int(own.max()))[1:]
    electric, magnetic = slope / m + n / x, slope * m + n / x
    live = n <= own
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are done run away, unused
        psi = _riccati(np.sin(x), np.sin(x) / x - np.cos(x), x, int(own.max()))
        xi = psi - 1j * _riccati(np.cos(x), np.cos(x) / x + np.sin(x), x, int(own.max()))
        a = (electric * psi[1:] - psi[:-1]) / (electric * xi[1:] - xi[:-1])
        b = (magnetic * psi[1:] - psi[:-1]) / (magnetic * xi[1:] - xi[:-1])
    return np.where(live, a, 0).T, np.where(live, b, 0).T


def _riccati(zeroth: Array, first: Array, x: Array, n_max: int) -> Array:
    """Return a Riccati-Bessel function of orders 0..n_max, (n_max + 1, N), by upward recurrence."""
    values = np.empty((n_max + 1, len(x)))
    values[0], values[1] = zeroth, first
    factors = (2 * np.arange(n_max)[:, None] + 1) / x
    for n in range(1, n_max):
        values[n + 1] = factors[n] * values[n] - values[n - 1]
    return values


def _log_derivative(z: Array, n_max: int) -> Array:
    """Return D_n(z) = psi_n'/psi_n for n = 0..n_max, (n_max + 1, N), by downward recurrence."""
    start = max(n_max, terms(float(np.abs(z).max()))) + 16
    values = np.zeros((start + 1, len(z)), complex)
    ratios = np.arange(start + 1)[:, None] / z
    for n in range(start, 0, -1):
        values[n - 1] = ratios[n] - 1 / (values[n] + ratios[n])
    return values[: n_max + 1]


def efficiencies(m: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """Return the extinction and scattering efficiencies of spheres, each (N,).

    Bohren and Huffman (1983), equations 4.61 and 4.62, divided by the cross section.
    """
    a, b = mie_coefficients(m, x)
    weight = 2 * np.arange(1, a.shape[1] + 1) + 1
    scale = 2 / np.atleast_1d(np.asarray(x, float)) ** 2
    extinction = scale * (weight * np.real(a + b)).sum(1)
    return extinction, scale * (weight * (np.abs(a) ** 2 + np.abs(b) ** 2)).sum(1)


def angular_functions(cosine: Array, n_max: int) -> tuple[Array, Array]:
    """Return pi_n and tau_n at the cosines (T,), each (n_max, T).

    Bohren and Huffman (1983), equation 4.47.
    """
    pi = np.empty((n_max, len(cosine)))
    tau = np.empty_like(pi)
    before, now = np.zeros_like(cosine), np.ones_like(cosine)
    for n in range(1, n_max + 1):
        pi[n - 1] = now
        tau[n - 1] = n * cosine * now - (n + 1) * before
        before, now = now, ((2 * n + 1) * cosine * now - (n + 1) * before) / n
    return pi, tau


def mie_amplitudes(m: ArrayLike, x: ArrayLike, cosine: ArrayLike) -> tuple[Array, Array]:
    """Return S1 and S2 of spheres at scattering angles given by their cosines, each (N, T).

    Bohren and Huffman (1983), equation 4.74.
    """
    a, b = mie_coefficients(m, x)
    n = np.arange(1, a.shape[1] + 1)
    pi, tau = angular_functions(np.atleast_1d(np.asarray(cosine, float)), a.shape[1])
    weight = (2 * n + 1) / (n * (n + 1))
    return (weight * a) @ pi + (weight * b) @ tau, (weight * a) @ tau + (weight * b) @ pi


@lru_cache(maxsize=4)
def _mean_table(widest: float, angles: int, n_max: int) -> Array:
    """Return the weights (n_max, angles) that turn a_n + b_n into (S1 + S2) / 2."""
    pi, tau = angular_functions(np.cos(np.linspace(0, widest, angles)), n_max)
    n = np.arange(1, n_max + 1)[:, None]
    return (pi + tau) * (2 * n + 1) / (2 * n * (n + 1))


def mean_amplitude(m: ArrayLike, x: ArrayLike, widest: float, angles: int) -> Array:
    """Return (S1 + S2) / 2 of spheres at `angles` even steps of 0..`widest` rad: (N, angles)."""
    a, b = mie_coefficients(m, x)
    count = a.shape[1]
    table = _mean_table(widest, angles, 192 if count <= 192 else 1152 * -(-count // 1152))[:count]
    total = a + b
    return np.real(total) @ table + 1j * (np.imag(total) @ table)


def multislice(slices: Array, incident: Array, hop: Array) -> Array:
    """Return the field behind a stack of thin slices, (..., W, W) complex (split-step method).

    `slices` (..., S, W, W) are complex transmissions in the order the light meets them, `incident`
    (W, W) is the field on the first, `hop` (W, W) the transfer function from one to the next (in
    the order of `numpy.fft.fftfreq`).
    """
    field = slices[..., 0, :, :] * incident
    for index in range(1, slices.shape[-3]):
        field = np.fft.ifft2(np.fft.fft2(field) * hop) * slices[..., index, :, :]
    return field


def sphere_profile(
    profile: InstrumentProfile, radius: float, index: float, focus: float, reach: float = 14.0
) -> tuple[Array, Array]:
    """Return distances from the centre (um) and the mean intensity there, of a sphere of any size.

    Without aberration the image is round, so that averaging around its centre does the work of
    the condenser's azimuths: four rings of sources, a wide transform each. `reach` is how far (um)
    the sphere's light is followed beyond its edge.
    """
    wavenumber = 2 * np.pi * profile.medium_index / profile.wavelength_um
    step = 0.45 * profile.wavelength_um / (profile.na_objective + profile.na_condenser)
    side = 32 * int(np.ceil(2 * (radius + reach) / step / 32))
    rings, weights = np.polynomial.legendre.leggauss(4)
    na = profile.na_condenser * np.sqrt((rings + 1) / 2)
    table = mean_amplitude(index / profile.medium_index, wavenumber * radius, profile.widest, FINE)
    total = np.zeros((side, side), np.float32)
    tilts = 2 * np.pi / profile.wavelength_um * na * np.exp(1j * TURN * np.arange(1, len(na) + 1))
    for tilt, weight in zip(tilts, weights / 2, strict=True):
        field = _tilted(profile, table[0], tilt, focus, side, step)
        total += np.float32(weight) * (np.real(field) ** 2 + np.imag(field) ** 2)
    return _radial_mean(total, step)


def _tilted(
    profile: InstrumentProfile, table: Array, tilt: complex, focus: float, side: int, step: float
) -> Array:
    """Return the field of a sphere at the corner under a wave of wave vector x + iy, over it."""
    wavenumber = 2 * np.pi * profile.medium_index / profile.wavelength_um
    lateral = 2 * np.pi * np.fft.fftfreq(side, step)
    kx, ky = lateral + tilt.real, lateral[:, None] + tilt.imag
    edge = 2 * np.pi * profile.na_objective / profile.wavelength_um
    rows, columns = np.nonzero(kx**2 + ky**2 <= edge**2)
    kx, ky = kx[columns], ky[rows, 0]
    kz, kz_in = np.sqrt(wavenumber**2 - kx**2 - ky**2), np.sqrt(wavenumber**2 - abs(tilt) ** 2)
    angle = np.arccos(np.minimum((kx * tilt.real + ky * tilt.imag + kz * kz_in) / wavenumber**2, 1))
    place = angle * ((len(table) - 1) / profile.widest)
    low = np.minimum(place.astype(np.intp), len(table) - 2)
    amplitude = table[low] + (place - low) * (table[low + 1] - table[low])
    amplitude *= -2 * np.pi / (wavenumber * kz) * np.exp(1j * (kz - kz_in) * focus) / step**2
    spectrum = np.zeros((side, side), np.complex64)
    spectrum[rows, columns] = amplitude
    return np.fft.ifft2(spectrum) + np.complex64(1)


def _radial_mean(intensity: Array, step: float) -> tuple[Array, Array]:
    """Return distances from the corner of a periodic image and the mean there."""
    side = len(intensity)
    axis = np.fft.fftfreq(side, 1 / side)
    distance = np.hypot(axis, axis[:, None])
    ring = (distance * 3).astype(np.intp).ravel()
    counts = np.bincount(ring)
    kept = (counts > 0) & (np.arange(len(counts)) < 3 * (side // 2))
    far = np.bincount(ring, distance.ravel())[kept] / counts[kept]
    return far * step, np.bincount(ring, intensity.ravel())[kept] / counts[kept]
