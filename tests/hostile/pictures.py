"""Pictures that are none, too many, too large, or elsewhere: each beside two good ones."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from hostile.case import Case

GOOD = 3


def good(path: Path, size: int = 16) -> None:
    grey = np.random.default_rng(len(path.name)).integers(90, 200, (size, size), dtype=np.uint8)
    Image.fromarray(grey).save(path, format="PNG")


def command(place: Path, *more: str) -> list[str]:
    return ["data", "import", str(place), "out/set", "--reader", "folder", "--size", "16", *more]


def folders(folder: Path, write: Callable[[Path], None], name: str = "x.png") -> list[str]:
    """Write class folders of good pictures, and the hostile one among them."""
    for label in ("a", "b"):
        (folder / "data" / label).mkdir(parents=True)
        for i in range(GOOD):
            good(folder / "data" / label / f"good-{label}-{i}.png")
    write(folder / "data" / "a" / name)
    return command(folder / "data")


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(
    width: int = 8, height: int = 8, more: bytes = b"", depth: int = 8, data: bytes = b""
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    pixels = data or zlib.compress(bytes((width + 1) * height) if width * height < 2**20 else b"")
    end = chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + end


def tiff(*entries: tuple[int, int, int, int], at: int = 8, after: int = 0) -> bytes:
    """Return one little-endian TIFF directory: (tag, type, count, value), and where the next is."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8) if at == 8 else b""
    return head + struct.pack("<H", len(entries)) + body + struct.pack("<I", after)


def grey_tags(width: int, height: int, strips: int = 1, offset: int = 0) -> list[tuple[int, ...]]:
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, strips, offset),
        (278, 4, 1, 1 if strips > 1 else height),
        (279, 4, strips, offset if strips > 1 else width * height),
    ]


def pages(n: int) -> bytes:
    """Return a TIFF whose pages all show the same 4 x 4 pixels."""
    tags = grey_tags(4, 4, 1, 0)
    size = 2 + 12 * len(tags) + 4
    last = 8 + n * size
    tags[5] = (273, 4, 1, last)
    each = (tiff(*tags, at=9, after=8 + (i + 1) * size if i + 1 < n else 0) for i in range(n))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(each) + bytes(16)


def saved(**how: object) -> bytes:
    file, mode = io.BytesIO(), str(how.pop("mode", "L"))
    Image.new(mode, (8, 8)).save(file, **how)  # type: ignore[arg-type]
    return file.getvalue()


def bomb(kind: bytes, before: bytes, n: int = 200_000_000) -> bytes:
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(bytes(2**20)) for _ in range(n >> 20)) + packed.flush()
    return png(more=chunk(kind, before + data))


def _jpeg_of(width: int, height: int) -> bytes:
    raw = bytearray(saved(format="JPEG"))
    at = raw.index(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def _animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("L", (8, 8), i * 40) for i in range(3)]
    frames[0].save(file, format="PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024, 0, 0, 54 + 1024) + head + bytes(1024)


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _bad_crc() -> bytes:
    raw = bytearray(png())
    raw[29] ^= 255
    return bytes(raw)


def _far() -> list[tuple[int, ...]]:
    side = 2**31 - 1
    return [(256, 4, 1, side), (257, 4, 1, side), *grey_tags(8, 8)[2:]]


def _strips(n: int) -> bytes:
    return tiff(*grey_tags(4, 4, n, 100)) + bytes(64)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as here:
        before = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        here.bind(path.name)
        os.chdir(before)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def _secret(path: Path) -> None:
    secret = path.parents[2] / "guard" / "secret.png"
    path.symlink_to(secret)


_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "png of no byte": (lambda: b"", "empty file"),
    "png cut short": (lambda: png(64, 64)[:60], "cannot be read"),
    "png of 60000 x 60000": (lambda: png(60_000, 60_000), "px|limit"),
    "png of 30000 x 1": (lambda: png(30_000, 1), "30000 x 1 px"),
    "png of 80 million px": (lambda: png(16_000, 5_000), "16000 x 5000 px"),
    "png with a zTXt bomb": (lambda: bomb(b"zTXt", b"k\0\0"), "cannot be read"),
    "png with an iTXt bomb": (lambda: bomb(b"iTXt", b"k\0\1\0\0\0"), "cannot be read"),
    "png with an iCCP bomb": (lambda: bomb(b"iCCP", b"k\0\0"), "cannot be read"),
    "png with 100,000 texts": (
        lambda: png(more=chunk(b"tEXt", b"k\0v") * 100_000),
        "",
    ),
    "png whose pixels are a bomb": (
        lambda: png(8, 8, data=zlib.compress(bytes(50_000_000), 9)),
        "",
    ),
    "png with a wrong checksum": (_bad_crc, "cannot be read"),
    "png that moves": (_animated, "holds 3 pictures"),
    "png of 16 bits": (lambda: png(8, 8, depth=16, data=zlib.compress(bytes(17 * 8))), ""),
    "png with a chunk of 4 GB": (
        lambda: png(more=b"\xff\xff\xff\xfftEXt" + bytes(64)),
        "cannot be read",
    ),
    "tiff of two pages": (lambda: pages(2), "holds 2 pictures"),
    "tiff of 100,000 pages": (lambda: pages(100_000), "16 or more"),
    "tiff that returns to itself": (
        lambda: tiff(*grey_tags(4, 4, 1, 110), after=8) + bytes(64),
        "",
    ),
    "tiff of a billion strips": (lambda: _strips(10**9), "cannot be read|strip|px"),
    "tiff of 2**31 px": (lambda: tiff(*_far()), "px|limit"),
    "tiff of floats": (lambda: saved(mode="F", format="TIFF"), "colours are F"),
    "tiff of 32 bits": (lambda: saved(mode="I", format="TIFF"), "colours are I"),
    "tiff with a tag of 4 GB": (
        lambda: tiff(*grey_tags(4, 4, 1, 120), (700, 1, 2**32 - 1, 8)) + bytes(64),
        "",
    ),
    "jpeg of 65500 x 65500": (lambda: _jpeg_of(65_500, 65_500), "px|limit"),
    "jpeg of CMYK": (lambda: saved(mode="CMYK", format="JPEG"), "colours are CMYK"),
    "jpeg cut short": (lambda: saved(format="JPEG")[:-40], "cannot be read"),
    "jpeg with a profile": (lambda: saved(format="JPEG", icc_profile=_profile()), ""),
    "bmp of 2**31 px": (lambda: _bmp(2**31 - 1, 2**31 - 1), "px|limit|cannot"),
    "bmp below 0": (lambda: _bmp(-8, -8), "cannot be read"),
    "gif under another name": (lambda: saved(format="GIF"), "cannot be read"),
    "postscript under another name": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot be read"),
    "pdf under another name": (lambda: b"%PDF-1.7\n" + bytes(99), "cannot be read"),
    "html under another name": (lambda: b"<script>alert(1)</script>", "cannot be read"),
    "noise": (lambda: np.random.default_rng(0).bytes(5000), "cannot be read"),
}
_THINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a folder called x.png": (lambda p: p.mkdir(), "not a regular file"),
    "a pipe": (lambda p: os.mkfifo(p), "not a regular file"),
    "a socket": (_socket, "not a regular file"),
    "a link to a device": (lambda p: p.symlink_to("/dev/zero"), "leaves the folder"),
    "a link that leads nowhere": (lambda p: p.symlink_to("nothing.png"), "no such file"),
    "a link to itself": (lambda p: p.symlink_to(p.name), "cannot be read|no such file|loop"),
    "a link out of the folder": (_secret, "leaves the folder"),
    "a file of a terabyte": (_sparse, "up to"),
}
_NAMES = ("=1+1.png", "a\nb.png", "\u202egnp.png", "$x_1^{2}$.png", "n" * 200 + ".png", "-rf.png")


def _bytes_name(folder: Path) -> list[str]:
    arguments = folders(folder, good)
    os.rename(folder / "data/a/x.png", os.fsencode(folder / "data/a") + b"/\xff\xfe.png")
    return arguments


def _class(folder: Path, label: str) -> list[str]:
    arguments = folders(folder, good)
    (folder / "data" / "b").rename(folder / "data" / label)
    return arguments


def together(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Write all of them into one folder; returns the command, and the reasons by id."""
    arguments, reasons = folders(folder, good), {}
    every: dict[str, tuple[Callable[[Path], object], str]] = dict(_THINGS)
    for name, (make, aside) in _FILES.items():
        every[name] = (lambda p, make=make: p.write_bytes(make())), aside
    every |= {name: (good, "") for name in _NAMES}
    for i, (write, aside) in enumerate(every.values()):
        write(folder / "data" / "a" / f"{i}.png")
        good(folder / "data" / "b" / f"{i}.png")
        reasons[f"a/{i}.png"] = aside
    for name in _NAMES:
        good(folder / "data" / "b" / name)
    return arguments, reasons


def cases() -> list[Case]:
    """Return the pictures as cases."""
    found = [
        Case(name, partial(folders, write=lambda p, make=make: p.write_bytes(make())), aside=aside)
        for name, (make, aside) in _FILES.items()
    ]
    found += [Case(n, partial(folders, write=w), aside=aside) for n, (w, aside) in _THINGS.items()]
    found += [
        Case(f"picture called {name[:20]!r}", partial(folders, write=good, name=name))
        for name in _NAMES
    ]
    labels = ("=cmd|' C calc'!A1", "<script>alert(1)<", "-rf", "CON")
    found += [Case(f"class called {label!r}", partial(_class, label=label)) for label in labels]
    return [*found, Case("picture whose name is no text", _bytes_name)]
