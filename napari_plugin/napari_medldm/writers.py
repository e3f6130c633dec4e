"""Save a layer as an image file or as a derived DICOM series, with the geometry that the layer has now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import UsageError

PLACE = ("name", "scale", "translate", "affine", "rotate", "shear", "units", "metadata")


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image or labels layer in the format of the name; a four-dimensional layer as one NIfTI file.

    Parameters
    ----------
    path : .nii.gz, .nii, .nrrd, .mha, .mgz, ...; NIfTI where it has none of these suffixes
    data : (..., Z, Y, X) array
    attributes : of the layer

    Returns
    -------
    the paths written

    Raises
    ------
    UsageError
        Several volumes in another format than NIfTI.
    """
    from medldm.io import write
    from medldm.io.formats import FORMATS, result_format

    target = Path(path)
    form = result_format(target) or FORMATS["nifti"]
    if not form.writes(target):
        target = target.with_name(target.name + form.written[0])
    volumes = _volumes(data, attributes)
    if len(volumes) == 1:
        write(volumes[0], target, form=form.name)
    elif form.name != "nifti":
        raise UsageError(
            f"{volumes[0].name} holds {len(volumes)} volumes, which are written as NIfTI only. Save it as .nii.gz, or "
            "split the layer along its first axis."
        )
    else:
        import nibabel as nib

        from medldm.errors import OutputError
        from medldm.io.atomic import whole_file

        array = np.stack([volume.to_stored(volume.voxels) for volume in volumes], axis=-1)
        image = nib.Nifti1Image(array, volumes[0].stored_affine())
        image.header.set_xyzt_units("mm")
        with whole_file(target) as temporary:
            nib.save(image, temporary)
            if not np.array_equal(np.asanyarray(nib.load(temporary).dataobj), array, equal_nan=True):
                raise OutputError(f"{target} could not be opened again and was not kept. Check the disk.")
    return [str(target)]


def write_dicom(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image layer as a derived DICOM series: a folder called like the path, without ``.dcm``.

    Parameters
    ----------
    path : name of the folder, maybe ending in .dcm
    data : (Z, Y, X) array
    attributes : of the layer

    Returns
    -------
    the folder

    Raises
    ------
    UsageError
        The layer does not come from DICOM, so there is no patient and study to derive a series from; or it is a series
        that is shown and not restored.
    """
    from medldm.io import write
    from napari_medldm.refused import KEY

    if refusal := attributes.get("metadata", {}).get(KEY):
        remedy = f"*{refusal.remedy}* first, or save it as NIfTI." if refusal.remedy else "Save it as NIfTI."
        raise UsageError(
            f"{attributes['name']} is shown as it is, and no series is derived from it: {refusal.reason} {remedy}"
        )
    volumes = _volumes(data, attributes)
    volume = volumes[0]
    if len(volumes) > 1:
        raise UsageError(
            f"{volume.name} holds {len(volumes)} volumes, a DICOM series holds one. Split the layer along its first "
            "axis, or save it as NIfTI."
        )
    if volume.stored.container != "dicom" or not volume.stored.header:
        raise UsageError(
            f"{volume.name} was not opened from DICOM, so there is no patient and study to derive a series from. "
            "Save it as NIfTI."
        )
    folder = Path(path).with_suffix("") if path.lower().endswith(".dcm") else Path(path)
    write(volume, folder, form="dicom")
    return [str(folder)]


def _volumes(data: Any, attributes: dict[str, Any]) -> list[Any]:
    from napari.layers import Image

    from napari_medldm.layers import snapshot

    known = {key: attributes[key] for key in PLACE if attributes.get(key) is not None}
    # A lazy layer is read here, a multiscale one at its finest level.
    finest = data[0] if attributes.get("multiscale") or isinstance(data, list | tuple) else data
    layer = Image(np.asarray(finest), rgb=attributes.get("rgb", False), multiscale=False, **known)
    return snapshot(layer).load(every=True).volumes()
