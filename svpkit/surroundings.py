"""What a run ran in: versions, platform, source, and the settings that change sums."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from svpkit.doctor import PACKAGES, version

# What numbers, tables and files are made with, beside what `svpkit doctor` shows.
_BESIDE = ("scipy", "scikit-learn", "scikit-image", "pandas", "pyarrow", "pillow", "safetensors")
_BESIDE += ("pydantic", "pluggy", "jinja2", "matplotlib")
# Names of settings that change results or how they are computed; no other is ever recorded.
_SETTINGS = (
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_CPU",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SVPKIT_STRICT_PLUGINS",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "WORLD_SIZE",
)
_LONGEST = 200


def surroundings() -> dict[str, Any]:
    """Return versions, platform, CPUs, commit, whether its tree was changed, and settings.

    No host, user or folder is named; of the environment those settings alone that change results.
    """
    at = commit()
    return {
        "versions": {"python": sys.version.split()[0], **_versions()},
        "platform": {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_implementation(),
            "cpus": os.cpu_count(),
        },
        "commit": at,
        "dirty": None if at is None else at.endswith("-dirty"),
        "environment": {k: os.environ[k][:_LONGEST] for k in _SETTINGS if k in os.environ},
    }


def commit() -> str | None:
    """Return the commit that svpkit's source is at, with a mark when it was changed, or None."""
    here = Path(__file__).parent
    # installed inside a stranger's repository, git would tell of that one
    if _git(here, "ls-files", "--error-unmatch", "record.py") is None:
        return None
    return _git(here, "describe", "--always", "--dirty", "--abbrev=12")


def _versions() -> dict[str, str]:
    import torch

    cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    return {name: version(name) for name in (*PACKAGES, *_BESIDE)} | cuda


def _git(folder: Path, *args: str) -> str | None:
    try:
        git = ["git", "-C", str(folder), *args]
        said = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None if said.returncode == 0 else None
