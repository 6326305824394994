"""Rare particles in flow imaging microscopy: learned, drawn, mixed in, and the effect measured."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec, Trial, hookimpl, tried

if TYPE_CHECKING:
    from svpkit import draws
    from svpkit.api import load, run
    from svpkit.particles.describe import describe
    from svpkit.particles.particleset import ParticleSet
    from svpkit.plugins import discover

__version__ = "0.1.0"
__all__ = [
    "ImageSpec",
    "ParticleSet",
    "SvpkitError",
    "Trial",
    "__version__",
    "describe",
    "discover",
    "draws",
    "hookimpl",
    "load",
    "run",
    "tried",
]

# Loaded on first use, so that `import svpkit` and `svpkit --help` stay quick and load no torch.
_LAZY = {
    "ParticleSet": "svpkit.particles.particleset",
    "load": "svpkit.api",
    "run": "svpkit.api",
    "describe": "svpkit.particles.describe",
    "discover": "svpkit.plugins",
    "draws": "svpkit.draws",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'svpkit' has no attribute '{name}'")
    module = import_module(_LAZY[name])
    return module if name == "draws" else getattr(module, name)
