"""The reader `imagestream`: the TIFFs that IDEAS exports, one per object and channel."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from svpkit import Trial, hookimpl

__version__ = "0.1.0"


def _example(folder: Path) -> Path:
    from svpkit_imagestream.example import write

    return write(folder)


class ImageStreamReader:
    """Objects that IDEAS exported as 16-bit TIFFs, a file each and channel, with their features.

    Files are `[PREFIX_]OBJECT_Ch<k>.ome.tif` (or .tif, .tiff); a run is the files of one prefix in
    one folder. One channel is read, with grey levels on one scale in the whole run. Written from
    public accounts of the format: no export of an instrument was at hand.
    """

    tried = Trial(example=_example)

    def read(
        self,
        path: Path | str,
        *,
        channel: Annotated[
            int, Ge(1), Le(12), "the channel that is read: a brightfield, mostly Ch1 or Ch9"
        ] = 1,
        um_per_px: Annotated[
            float | None, Gt(0), "scale of all images; else by magnification, else their OME-XML"
        ] = None,
        magnification: Annotated[
            Literal[20, 40, 60] | None, "objective: 1.0, 0.5 and 0.3 um per px"
        ] = None,
        background: Annotated[
            float | None,
            Gt(0),
            "level that becomes grey 160; else that of the run's own background (brightfield)",
        ] = None,
        features: Annotated[
            str | None, "table of features in each folder, a pattern; else any .txt that is one"
        ] = None,
        label_column: Annotated[str | None, "column of the features that holds labels"] = None,
        volume_ml: Annotated[float | None, Gt(0), "volume imaged, of each run"] = None,
        dilution: Annotated[float, Gt(0), "how many times the sample was diluted"] = 1.0,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield (image uint8 (h, w), row), run after run by object number; or (reason, row).

        Raises SvpkitError where there is no such file, a table or column that is asked for is not
        there, and where the channel has no bright background and `background` is not given.
        """
        from svpkit_imagestream.reading import Options, read

        scale = um_per_px or {None: None, 20: 1.0, 40: 0.5, 60: 0.3}[magnification]
        asked = Options(channel, scale, background, features, label_column, volume_ml, dilution)
        yield from read(Path(path), asked)

    def sniff(self, path: Path | str) -> bool:
        """Return whether this folder, or one in it, holds `<object>_Ch<k>.ome.tif` files."""
        from svpkit_imagestream.exports import sniff

        return sniff(Path(path))


@hookimpl
def register_readers(register: Callable[[str, Any], None]) -> None:
    """Register `imagestream`."""
    register("imagestream", ImageStreamReader())
