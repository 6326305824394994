"""The reader `flowcam`: runs of FlowCam's VisualSpreadsheet, their tiles and columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from svpkit import hookimpl


class FlowCamReader:
    """FlowCam run folders (.lst or .csv, collages), one run or a folder of several.

    Tiles are cut from the collages; um per px, volume, date and magnification come from the run's
    own files; the export's columns are kept as they are.
    """

    def read(
        self,
        path: Path | str,
        *,
        mask: Annotated[
            bool, "background wherever the instrument's mask, widened by 2 px, is not"
        ] = False,
        flat_field: Annotated[bool, "tiles over the run's cal_image, at its median"] = False,
        classes_from_instrument: Annotated[bool, "labels from the run's .cla"] = False,
        volume_ml: Annotated[
            float | None, Gt(0), "volume imaged, in mL; else what the run's summary says"
        ] = None,
        dilution: Annotated[float, Gt(0), "how many times the sample was diluted"] = 1.0,
        size: Annotated[
            Literal["abd", "esd", "mask"],
            "diameter for ecd_um: ABD (less the fringe), ESD, or of the mask's whole area",
        ] = "abd",
        labels: Annotated[
            str | None, "CSV of human labels; its path is taken from the export's folder"
        ] = None,
        label_column: Annotated[str | None, "its column of labels; else 'label' or 'class'"] = None,
        id_column: Annotated[
            str | None, "its column of particle ids; else 'particle_id', 'Particle ID' or 'id'"
        ] = None,
        image_column: Annotated[
            str | None, "its column of image GUIDs, to join by these instead of ids"
        ] = None,
        run_column: Annotated[str | None, "its column of run names; else 'run', if there"] = None,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield (tile, row), tile uint8 (h, w) or (h, w, 3); or (reason, row)."""
        from svpkit.readers.flowcam import Options, read

        asked = Options(
            mask=mask,
            flat_field=flat_field,
            classes_from_instrument=classes_from_instrument,
            volume_ml=volume_ml,
            dilution=dilution,
            size=size,
            labels=labels,
            label_column=label_column,
            id_column=id_column,
            image_column=image_column,
            run_column=run_column,
        )
        yield from read(Path(path), asked)

    def sniff(self, path: Path | str) -> bool:
        """Return whether a path holds FlowCam runs, looked for one folder down too."""
        from svpkit.readers.flowcam_runs import sniff

        return sniff(Path(path))


@hookimpl
def register_readers(register: Any) -> None:
    """Register `flowcam`."""
    register("flowcam", FlowCamReader())
