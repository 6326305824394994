"""Names of a FlowCam export's CSV columns, and the .lst fields that they are."""

import re

# Columns of the CSV export, folded, by the names that the .lst has for the same value. Its camera
# is not among them: the CSV counts cameras from 1, the .lst from 0.
_SAME = (
    "id=particle_id src_x=capture_x src_y=capture_y src_image=source_image ppc=particles_per_chain "
    "cal_image=calibration_image cal_const=calibration_factor image_w=image_width "
    "image_h=image_height raw_sphere_volume=sphere_volume raw_sphere_unknown=sphere_unknown "
    "raw_sphere_complement=sphere_complement abd_area=area_abd abd_diameter=diameter_abd "
    "esd_diameter=diameter_esd fd_diameter=diameter_fd filled_area=area_filled avg_red=average_red "
    "avg_green=average_green avg_blue=average_blue feret_max_angle=feret_angle_max "
    "feret_min_angle=feret_angle_min collage_file=image_file image_id=original_reference_id"
)
_ALIKE = (
    "image_x image_y sphere_count length width perimeter convex_perimeter intensity "
    "sigma_intensity sum_intensity compactness elongation roughness edge_gradient elapsed_time "
    "circle_fit symmetry circularity_hu ch1_peak ch1_width ch1_area ch2_peak ch2_width ch2_area "
    "timestamp"
)
CSV_NAMES = {pair.split("=")[1]: pair.split("=")[0] for pair in _SAME.split()}
CSV_NAMES |= {name: name for name in _ALIKE.split()}
_UNITS = ("s", "ms", "px", "pixels", "um", "m", "um2", "m2", "um3", "m3", "deg", "um_px", "m_px")


def fold(name: str) -> str:
    """Return a column's name in lower case, whatever is neither letter nor digit as one _."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def our_name(column: str) -> str:
    """Return the .lst name of a column of the CSV export, or "" where the .lst has none.

    A unit at the end of the column's name (`image_width_px`) is no part of it.
    """
    name = fold(column)
    if name in CSV_NAMES:
        return CSV_NAMES[name]
    bare = (name.removesuffix(f"_{unit}") for unit in _UNITS if name.endswith(f"_{unit}"))
    return next((CSV_NAMES[b] for b in bare if b in CSV_NAMES), "")
