"""Which images of its series a slice of a result comes from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medldm.data.volume import Affine, Volume
from medldm.errors import InputError
from medldm.io.dicom.header.files import no_values_on_screen
from medldm.io.dicom.pixels.image import Files
from medldm.io.dicom.writing.classic import Source, source_of
from medldm.provenance.record import RunRecord

CITED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")  # a derived slice refers to them
# A slice of the result this close to one of the series is that slice; scanners round positions.
SAME_PLACE_MM, SAME_PLACE = 0.02, 0.01


class Sources(NamedTuple):
    """The images that a result comes from, on its own grid.

    Parameters
    ----------
    images : images; those that were thrown away and filled anew are not among them
    places : of each of them, in slices of the result
    lps : (4, 4), stored index of the result to mm in DICOM's world
    """

    images: list[Source]
    places: npt.NDArray[np.float64]
    lps: Affine

    def at(self, place: int) -> Source | None:
        """The image that a slice of the result is; None where it lies between images, or beyond them."""
        away = np.abs(self.places - place)
        closest = int(away.argmin())
        step_mm = float(np.linalg.norm(self.lps[:3, 2]))
        return self.images[closest] if away[closest] < max(SAME_PLACE_MM / step_mm, SAME_PLACE) else None

    def nearest(self, place: int) -> list[Source]:
        """The image that a slice of the result is, or its neighbours below and above, nearest first."""
        if same := self.at(place):
            return [same]
        away = self.places - place
        below, above = np.flatnonzero(away < 0), np.flatnonzero(away > 0)
        near = [int(side[np.abs(away[side]).argmin()]) for side in (below, above) if len(side)]
        return [self.images[number] for number in sorted(near, key=lambda number: float(abs(away[number])))]


@no_values_on_screen()
def sources_of(volume: Volume) -> Sources:
    """The images that a volume comes from.

    Parameters
    ----------
    volume : read from DICOM; its ``stored.header`` names them

    Raises
    ------
    InputError
        It was not read from DICOM, or its files are no longer there.
    """
    frames = [frame for frame in volume.stored.header or () if frame is not None]
    if volume.stored.container != "dicom" or not frames:
        raise InputError(
            f"{volume.name} was not read from DICOM, so there is no patient and study to derive a series from. "
            "Write NIfTI instead."
        )
    files = Files(pixels=False)
    images = [source_of(frame, files) for frame in frames]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.stored_affine()
    positions = np.array([[float(v) for v in source.header.ImagePositionPatient] for source in images])
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    normal /= np.linalg.norm(normal)
    places = (positions - lps[:3, 3]) @ normal / (lps[:3, 2] @ normal)
    kept = [number for number, gone in enumerate(_thrown_away(volume, places)) if not gone]
    kept = kept or list(range(len(images)))
    return Sources([images[number] for number in kept], places[kept], lps)


@no_values_on_screen()
def citable_sources(volume: Volume) -> Sources:
    """The images that a volume comes from, all fit to be cited.

    Raises
    ------
    InputError
        As for `sources_of`, or an image lacks what names it.
    """
    sources = sources_of(volume)
    for source in sources.images:
        for name in CITED:
            if not source.header.get(name):
                raise InputError(
                    f"{source.image.path} has no {name}, so no series can be derived from it. Write NIfTI instead."
                )
    return sources


def _thrown_away(volume: Volume, places: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether each image was a damaged one, whose slice was filled from its neighbours; inpainted ones were not."""
    lost: set[int] = set()
    finer = 1.0  # slices of the result for each slice of the scan
    for record in map(RunRecord.of_step, volume.history):
        if finer == 1:
            lost |= _filled(record)
        old, new = record.old_spacing, record.new_spacing
        finer *= old[volume.slice_axis] / new[volume.slice_axis] if old and new else 1.0
    # Fields of view agree at their edges, not at the middles of their slices.
    on_scan = np.rint((places + 0.5) / finer - 0.5).astype(int)
    return np.isin(on_scan, list(lost))


def _filled(record: RunRecord) -> set[int]:
    """Slices of the scan that a task filled as a whole."""
    if record.axis != 2:
        return set()
    return set(record.filled_slices)
