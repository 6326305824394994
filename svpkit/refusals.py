"""What the operating system refused, in one line: a full disk, a folder that is read-only."""

import errno
import os
import re
from pathlib import Path

# No room: a full disk, a quota, a limit on the size of a file.
_UNSAID = 0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, _UNSAID)
# How safetensors tells of an error of the system, and numpy of a file that it could not fill.
_NUMBER = re.compile(r"\(os error (\d+)\)")
_SHORT = re.compile(r"\d+ requested and \d+ written")


def refused(error: BaseException, place: Path | str = "") -> str | None:
    """Return one line for what the system refused, None where the error is of another kind.

    `place` is named where the error does not know the file.
    """
    number = _number(error)
    if number is None:
        return None
    where = getattr(error, "filename", None) or place
    said = os.strerror(number) if number else "a file is there in part"
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        said = "this is a file, a folder is wanted"
    if number in _FULL:
        said = f"no room to write ({said}); with more of it the same command goes on"
    return f"{where}: {said}" if where else said


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if found := _NUMBER.search(str(error)):
        return int(found[1])
    # full or over a limit, numpy does not say
    return _UNSAID if isinstance(error, OSError) and _SHORT.search(str(error)) else None
