"""Real packages for tests: a wheel is written and installed as pip would."""

import base64
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


def build(folder, name, version, source, entry=None, requires=()):
    """Write a wheel with one module and return its path.

    `entry` is the text of its entry_points.txt; by default one entry point of group `svpkit`, named
    after the module (the name with underscores).
    """
    module = name.replace("-", "_")
    entry = f"[svpkit]\n{module} = {module}\n" if entry is None else entry
    info = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        f"{info}/entry_points.txt": entry,
    }
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    wheel = Path(folder) / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def install(wheels, target, *, unpack=False):
    """Install wheels into a folder, by uv where it is there, else by unpacking them.

    `unpack` writes what no installer would take.
    """
    target = Path(target)
    if (uv := shutil.which("uv")) and not unpack:
        command = [uv, "pip", "install", "--target", target, "--no-deps", "--offline", "--no-index"]
        command += ["--quiet", "--python", sys.executable, *wheels]
        subprocess.run([str(each) for each in command], check=True, capture_output=True)
        return
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def _digest(text):
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
