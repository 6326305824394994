"""The instruments: two, far enough apart to be a domain shift; likenesses, no vendor's figures."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin


@dataclass(frozen=True)
class InstrumentProfile:
    """What tells one instrument from another; lengths in um, grey levels out of 255."""

    name: str
    um_per_px: float
    na_objective: float
    na_condenser: float
    wavelength_um: float
    medium_index: float
    background: float  # grey level of the empty field, I0
    background_sd: float  # its change from image to image
    shading: float  # largest illumination gradient over the crop, share of I0
    stray: tuple[float, float]  # share of light that bypasses the particle, range
    shot: float  # sd of the photon noise at the background
    read: float  # sd of the sensor's noise
    mottle: float  # sd of the noise that neighbours share
    motion_um: float  # longest blur along the flow
    focus_um: float  # shift of every particle's plane of focus
    focus_spread: float  # factor on the spread of depths in the flow cell
    astigmatism: float  # sd over images, waves
    coma: float
    offset_um: float  # crop rule: sd of the particle's distance from the centre of its crop

    @property
    def widest(self) -> float:
        """Largest angle (rad) between a wave of the condenser and one that the objective takes."""
        return asin(self.na_objective / self.medium_index) + asin(
            self.na_condenser / self.medium_index
        )


INSTRUMENTS = {
    profile.name: profile
    for profile in (
        InstrumentProfile(
            name="mfi-like",
            um_per_px=0.29,
            na_objective=0.30,
            na_condenser=0.10,
            wavelength_um=0.47,
            medium_index=1.333,
            background=176.0,
            background_sd=2.5,
            shading=0.03,
            stray=(0.03, 0.07),
            shot=2.0,
            read=0.8,
            mottle=1.5,
            motion_um=0.4,
            focus_um=0.0,
            focus_spread=1.0,
            astigmatism=0.10,
            coma=0.07,
            offset_um=0.5,
        ),
        InstrumentProfile(
            name="flowcam-like",
            um_per_px=0.55,
            na_objective=0.25,
            na_condenser=0.14,
            wavelength_um=0.53,
            medium_index=1.338,
            background=205.0,
            background_sd=6.0,
            shading=0.08,
            stray=(0.06, 0.12),
            shot=3.0,
            read=2.0,
            mottle=2.5,
            motion_um=1.2,
            focus_um=4.0,
            focus_spread=1.5,
            astigmatism=0.15,
            coma=0.12,
            offset_um=1.2,
        ),
    )
}
