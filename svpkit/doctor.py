"""What this machine has: versions, devices, the precisions that are real, the plugins loaded."""

import importlib.metadata
import platform

from svpkit import __version__
from svpkit.hookspecs import KINDS
from svpkit.plugins import Registry

PACKAGES = ("torch", "torchvision", "timm", "diffusers", "accelerate", "torchmetrics", "numpy")


def findings(registry: Registry) -> list[tuple[str, str]]:
    """Return (what, found) rows, first what matters most."""
    from svpkit import devices

    here = devices.describe()
    emulated = [p for p in devices.PRECISIONS[1:] if p not in here["precisions"]]
    rows = [
        ("svpkit", __version__),
        ("python", platform.python_version()),
        ("device", f"{here['device']} ({here['name']}), {here['threads']} threads"),
        ("precision", f"{', '.join(here['precisions'])} real; {', '.join(emulated) or 'none'} not"),
    ]
    rows += [(name, version(name)) for name in PACKAGES]
    rows += [(kind.replace("_", " "), ", ".join(registry.names(kind))) for kind in KINDS]
    rows += [(f"set aside: {b.name}", f"{b.package}: {b.reason}") for b in registry.broken]
    return rows


def version(package: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
