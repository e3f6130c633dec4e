"""Scans that are shown but not restored as they are, and how each becomes one that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medldm.errors import UsageError
from medldm.io.dicom.header.content import MOSAIC, what_it_shows
from medldm.io.dicom.series.stack import members_of, volume_of
from napari_medldm.layers import LayerTuple, layer_data, series_data
from napari_medldm.looked_at import name_of, picture_of

if TYPE_CHECKING:
    from medldm.io.dicom import Series
    from medldm.io.discovery import Case

KEY = "medldm_refused"  # of layer.metadata
SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")
# What helps, by verdict: title of the button, and what is added to the name of the scan that comes of it.
REPAIRS = {
    "tilted": ("Shear back and resample", "sheared back"),
    "irregular": ("Resample to an even spacing", "resampled"),
    "duplicate": ("Keep the first of the copies", "without copies"),
}
USE_VOLUME = "Use the volume shown"


@dataclass(frozen=True)
class Refused:
    """Why a layer is shown and not restored.

    Parameters
    ----------
    reason : a sentence
    remedy : title of a button that helps, see `title`; empty where nothing does
    options : of `medldm.io.discovery.Case.read`: ``fix``, or ``volume``, which is the one that the slider is at
    case : where the scan is read from again; it keeps the folder of an archive
    suffix : what is added to the name of the scan that the remedy gives
    """

    reason: str
    remedy: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    case: Case | None = field(default=None, repr=False, compare=False)
    suffix: str = ""


def refused(layer: Any) -> Refused | None:
    """Why a layer is not restored as it is; None where it is.

    Parameters
    ----------
    layer : napari layer
    """
    refusal = layer.metadata.get(KEY)
    return refusal if isinstance(refusal, Refused) else None


def title(layer: Any, point: Sequence[float] | None = None) -> str:
    """Title of the button, with the number of the volume that it would use; empty where no button helps.

    Parameters
    ----------
    layer : napari layer
    point : world coordinates of the current slice
    """
    refusal = refused(layer)
    if refusal is None or "volume" not in refusal.options:
        return refusal.remedy if refusal else ""
    return f"Use volume {_current(layer, point)}"


def remedied(layer: Any, point: Sequence[float] | None = None) -> LayerTuple:
    """The scan after its remedy, as a layer; which may be refused in turn, as a tilted volume of a 4D series is.

    Parameters
    ----------
    layer : napari layer that is `refused` and has a remedy
    point : world coordinates of the current slice; its first axis says which volume

    Raises
    ------
    MedldmError
        It cannot be repaired, or its files have changed.
    """
    refusal = refused(layer)
    if refusal is None or not refusal.remedy or refusal.case is None:
        raise UsageError(f"{layer.name} has no remedy.")
    case, name = refusal.case, str(layer.name)
    if "volume" not in refusal.options:
        return layer_data(case.read(**refusal.options), name=f"{name}, {refusal.suffix}")
    number = _current(layer, point)
    name = f"{name}, volume {number}"
    assert case.series is not None, "only series are refused for holding several volumes"
    if not case.series.volumes:  # a mosaic: what is shown is the volume
        return layer_data(picture_of(case.series, name).volumes[number], name=name)
    one = replace(case, series=volume_of(case.series, number), skip="")
    return series_layer(one, name)[0]


def has_volumes(layer: Any) -> bool:
    """Whether a layer is refused because it holds several volumes, so that all of them can be used at once."""
    refusal = refused(layer)
    return refusal is not None and "volume" in refusal.options and layer.ndim > 3


def all_volumes(layer: Any) -> LayerTuple:
    """All volumes of a layer that `has_volumes` as one layer with a slider, of which any or all can be restored.

    Parameters
    ----------
    layer : napari layer

    Raises
    ------
    MedldmError
        One of them cannot be restored as it is, or they lie on several grids; or the files have changed.
    """
    refusal = refused(layer)
    if refusal is None or refusal.case is None:
        raise UsageError(f"{layer.name} holds no volumes that are refused.")
    case, name = refusal.case, str(layer.name)
    series = case.series
    assert series is not None, "only series are refused for holding several volumes"
    if not series.volumes:
        return series_data(picture_of(series, name).volumes, name=f"{name}, all volumes")
    volumes = []
    for number in range(len(series.volumes)):
        one = volume_of(series, number)
        if not one.restorable:
            raise UsageError(f"Volume {number}: {plain(one.reason)} Use single volumes; each offers what helps.")
        volumes.append(replace(case, series=one, skip="").read())
    first = volumes[0]
    if any(v.shape != first.shape or not np.allclose(v.affine, first.affine, atol=1e-3) for v in volumes):
        raise UsageError("The volumes lie in different places or have different sizes. Use single volumes.")
    return series_data(volumes, name=f"{name}, all volumes")


def series_layer(case: Case, name: str = "") -> tuple[LayerTuple, str]:
    """A DICOM series as a layer, refused or not, and a sentence about how it is shown; empty where it is as measured.

    Parameters
    ----------
    case : with a series
    name : of the layer; number and description of the series when not given
    """
    series = case.series
    assert series is not None, "a case without a series is an image file"
    name = name or name_of(series)
    if series.restorable and not case.skip:
        return layer_data(case.read(), name=name), ""
    with case.own_names():
        picture = picture_of(series, name)
    refusal = _refusal(case, series, len(picture.volumes))
    volumes = picture.volumes
    layer = layer_data(volumes[0], name=name) if len(volumes) == 1 else series_data(volumes, name=name)
    layer[1]["metadata"][KEY] = refusal
    remarks = [_sheared(refusal)] if series.verdict == "tilted" else []
    said = "; ".join(remarks + [picture.remark] if picture.remark else remarks)
    return layer, said and f"{name}: {said}."


def plain(reason: str) -> str:
    """A reason of the readers as sentences of their own, without those that advise options of the command line.

    Parameters
    ----------
    reason : ``"its slices are sheared (gantry tilt). Ask for --fix, which shears them back."``
    """
    sentences = [part for part in SENTENCE.split(reason.strip()) if " --" not in part and "`--" not in part]
    text = " ".join(sentences)
    return text[:1].upper() + text[1:]


def _refusal(case: Case, series: Series, count: int) -> Refused:
    reason = plain(series.reason or case.skip)
    if series.verdict in REPAIRS:
        remedy, suffix = REPAIRS[series.verdict]
        return Refused(reason, remedy, {"fix": True}, case, suffix)
    mosaic = series.reason == f"it is {MOSAIC}."
    if mosaic and (content := _in_mosaic(series)):
        return Refused(f"{reason} It holds {content}.", case=case)
    if series.volumes or mosaic:
        remedy = USE_VOLUME if count > 1 else "Use the volume of the mosaic"
        return Refused(reason, remedy, {"volume": None}, case, "volume")
    return Refused(reason, case=case)


def _in_mosaic(series: Series) -> str:
    """What a mosaic holds that is no scan, in words that follow "it holds"; empty for a scan."""
    header = members_of(series)[0]
    kinds = tuple(term for term in header.image_type if term != "MOSAIC")
    return what_it_shows(replace(header, mosaic=0, image_type=kinds))


def _sheared(refusal: Refused) -> str:
    reason = refusal.reason.rstrip(".")
    return f"{reason[:1].lower()}{reason[1:]}; it is shown slice by slice, neither sheared back nor resampled"


def _current(layer: Any, point: Sequence[float] | None) -> int:
    """Number of the volume that the slider of a layer is at; 0 of a single one."""
    if layer.ndim < 4 or point is None:
        return 0
    index = layer.world_to_data(tuple(point)[-layer.ndim :])[0]
    return int(np.clip(round(float(index)), 0, layer.data.shape[0] - 1))
