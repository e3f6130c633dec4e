"""Let napari open scans with medldm without asking which reader to take; only when the user asks for it, in a menu.

napari asks where several readers match a name. A manifest cannot say that one of them comes first; a setting of the
user can.
"""

from __future__ import annotations

import os

from medldm.io.formats import FORMATS

PLUGIN = "medldm"
SHARED = (".dcm", ".dicom", ".img.gz")  # further names that napari's own reader matches, too
FOLDERS = f"*{os.sep}"


def patterns() -> tuple[str, ...]:
    """Names that the setting is about: image files of all formats, DICOM files, folders."""
    suffixes = {end for form in FORMATS.values() for end in (*form.suffixes, *form.part_suffixes)}
    # Raw voxels without their header are no scan, and raw is what cameras write.
    images = sorted(end for end in suffixes if "raw" not in end)
    return (*(f"*{end}" for end in (*images, *SHARED)), FOLDERS)


def open_scans_with_medldm() -> None:
    """Make medldm napari's reader of scans and folders, and say how to take that back.

    Preferences for names that are more specific, such as one folder, stay, and count before these.
    """
    from napari.settings import get_settings
    from napari.utils.notifications import show_info

    plugins = get_settings().plugins
    plugins.extension2reader = {**plugins.extension2reader, **dict.fromkeys(patterns(), PLUGIN)}
    show_info(
        "From now on, napari opens NIfTI, NRRD, MetaImage, MGZ and DICOM files, and folders, with medldm and does not "
        "ask. Take that back in Preferences > Plugins."
    )
