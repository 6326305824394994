"""What this machine really has: the device, and the precisions that are not emulated on it."""

from typing import Any

import torch

from svpkit import ranks
from svpkit.errors import SvpkitError, choices

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def device() -> torch.device:
    """Return the device that models run on: the launcher's, else CUDA, MPS or the CPU."""
    here = ranks.state().device
    assert here is not None
    return here


def real_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that the device computes in hardware, fp32 first."""
    if device.type == "cuda":
        bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return ("fp32", "bf16", "fp16") if bf16 else ("fp32", "fp16")
    if device.type == "cpu" and _cpu_bf16():
        return ("fp32", "bf16")
    return ("fp32",)


def resolve_precision(asked: str, device: torch.device) -> str:
    """Return "fp32", "bf16" or "fp16"; raises SvpkitError where it would only be emulated.

    "auto" is bf16 on a GPU that has it, else fp32.
    """
    real = real_precisions(device)
    if asked == "auto":
        return "bf16" if device.type == "cuda" and "bf16" in real else "fp32"
    if asked not in real:
        raise SvpkitError(
            f"precision: '{asked}' is only emulated on this {device.type} and many times slower "
            f"than fp32 (real here: {choices(real)})"
        )
    return asked


def describe() -> dict[str, Any]:
    """Return the device, its name and what it can do, for `run.json` and `svpkit doctor`."""
    here = device()
    name = torch.cuda.get_device_name(here) if here.type == "cuda" else _cpu_name()
    return {
        "device": str(here),
        "name": name,
        "threads": torch.get_num_threads(),
        "precisions": list(real_precisions(here)),
    }


def _cpu_bf16() -> bool:
    # oneDNN takes bf16 on any AVX-512 machine; only these units compute in it
    try:
        has = torch.cpu.get_capabilities()
        arm = has.get("architecture") == "aarch64"
        units = arm or has.get("avx512_bf16") or has.get("amx_bf16")
        return bool(units and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(x.split(":", 1)[1].strip() for x in file if x.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
