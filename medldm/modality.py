"""What differs between MRI and CT, in one object each; everything else asks it.

To add a modality: one more object in `MODALITIES`, and a model card that names it. Files, cards and ``--modality``
keep its name. This module loads next to nothing, since ``--help`` lists the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medldm.system import Registry

if TYPE_CHECKING:
    from medldm.data.intensity import Array, Mask, Scaling
    from medldm.data.volume import Volume


# BIDS suffixes, and the habits of other tools, in lower case.
MR_SUFFIXES = (
    "t1w t2w flair pdw pdt2 t2star t2starw inplanet1 inplanet2 unit1 angio swi minip mp2rage megre mese vfa mprage t1 "
    "t2 pd t1gd t1ce t1c t1post dwi bold cbv sbref asl m0scan epi magnitude magnitude1 magnitude2 tof"
)


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """Noise of a modality, and how its level is given.

    Parameters
    ----------
    family : ``"rician"`` (magnitude of complex Gaussian noise) or ``"gaussian"``
    unit : of a level: ``"fraction"`` of the 99.5th percentile of the foreground, or that of stored values
    highest : level that no signal survives; infinite where stored values have no such limit
    noisy_from : level above which a scan is worth denoising, where the settings do not say
    example : level of a typical scan, for examples
    tissue : range of stored values in which the noise is measured; None for the whole foreground
    high_pass : whether reconstruction leaves the noise hardly any power at low frequencies
    """

    family: str
    unit: str = "fraction"
    highest: float = float("inf")
    noisy_from: float = 0.02
    example: float = 0.05
    tissue: tuple[float, float] | None = None
    high_pass: bool = False

    @property
    def relative(self) -> bool:
        """Whether a level is a fraction of the scan's own range."""
        return self.unit == "fraction"

    @property
    def meaning(self) -> str:
        """What a level is, for sentences."""
        return "a fraction of the scan's 99.5th percentile" if self.relative else self.unit

    @property
    def shown_unit(self) -> str:
        """Unit in which people read a level: percent for fractions."""
        return "%" if self.relative else self.unit

    def shown(self, level: float) -> float:
        """A level in `shown_unit`."""
        return 100 * level if self.relative else level

    def text(self, level: float) -> str:
        """A level as people read it: ``5.0 %`` or ``30 HU``."""
        return f"{self.shown(level):.{1 if self.relative else 0}f} {self.shown_unit}"

    def per_scaled(self, scaling: Scaling) -> float:
        """Level that is one unit of scaled intensity.

        Parameters
        ----------
        scaling : of the scan
        """
        return 1.0 if self.relative else scaling.unit


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of scanner.

    Parameters
    ----------
    name : in files, cards and options; the DICOM modality in lower case
    noise : see `NoiseModel`
    window : stored values that become 0 and 1; None where stored values have no unit, and percentiles of each scan do
    unit : of stored values; empty for none
    plausible : lowest and highest stored value that tissue can have; None for any
    air : stored value of nothing
    body_above : stored value between air and body; None where it is found in the histogram of each scan
    magnitude : whether stored values are magnitudes, which are never negative
    plane_profile : how a scanner loses resolution in its planes, see `medldm.degradations.sampling.profile_matrix`
    suffixes, folders : last part of a file's name, and the name of its folder, that say so; lower case
    by_values : lowest and highest value of a scan to why it is this modality, ``"its values ..."``; empty if not
    sop_class : DICOM SOP class of one image
    dicom_empty : elements that its DICOM module asks for, which may be empty
    rescale_type : DICOM word for the unit of stored values
    ucum : name of that unit among the codes of pydicom
    monai_format : MONAI's word for what voxels are
    """

    name: str
    noise: NoiseModel
    window: tuple[float, float] | None = None
    unit: str = ""
    plausible: tuple[float, float] | None = None
    air: float = 0.0
    body_above: float | None = None
    magnitude: bool = True
    plane_profile: str = "rect"
    suffixes: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    by_values: Callable[[float, float], str] = lambda low, high: ""
    sop_class: str = ""
    dicom_empty: tuple[str, ...] = ()
    rescale_type: str = "US"
    ucum: str = "NoUnits"
    monai_format: str = "magnitude"

    @property
    def title(self) -> str:
        """What people and DICOM call it."""
        return self.name.upper()

    @property
    def fixed_scaling(self) -> Scaling | None:
        """The scaling of every scan, where stored values have a unit."""
        from medldm.data.intensity import Scaling

        return None if self.window is None else Scaling(*self.window)

    def scaling(self, voxels: Array, foreground: Mask | None = None) -> Scaling:
        """The scaling of a scan: the window, or percentiles of the foreground.

        Parameters
        ----------
        voxels : (X, Y, Z) stored units
        foreground : (X, Y, Z) bool, of `foreground`, where it is known already
        """
        from medldm.data.intensity import mri_scaling

        return self.fixed_scaling or mri_scaling(voxels, foreground)

    def foreground(self, voxels: Array) -> Mask:
        """Where the patient is, (X, Y, Z) bool.

        Parameters
        ----------
        voxels : (X, Y, Z) stored units
        """
        from medldm.data.intensity import body_mask, foreground_mask

        return foreground_mask(voxels) if self.body_above is None else body_mask(voxels, self.body_above)

    def named(self, path: Path) -> bool:
        """Whether a BIDS suffix or folder says so."""
        last = re.split(r"[_\-. ]", path.name.split(".")[0].lower())[-1]
        return last in self.suffixes or path.parent.name.lower() in self.folders


def _not_hounsfield(low: float, high: float) -> str:
    return "its values are not HU"


def _hounsfield(low: float, high: float) -> str:
    hounsfield = low <= -500 and 200 < high < 40000
    return f"its values reach from {low:.0f} to {high:.0f} as HU do" if hounsfield else ""


MR = Modality(
    name="mr",
    noise=NoiseModel(family="rician", highest=1.0),
    plane_profile="kspace",
    suffixes=frozenset(MR_SUFFIXES.split()),
    folders=frozenset(("anat", "func", "dwi", "perf", "fmap")),
    by_values=_not_hounsfield,
    sop_class="1.2.840.10008.5.1.4.1.1.4",
)
CT = Modality(
    name="ct",
    noise=NoiseModel(
        family="gaussian", unit="HU", noisy_from=15.0, example=30.0, tissue=(-50.0, 150.0), high_pass=True
    ),
    window=(-1000.0, 1000.0),
    unit="HU",
    plausible=(-1024.0, 3071.0),  # what 12 bits of a scanner hold. Less is padding, more is metal beyond its scale
    air=-1000.0,
    body_above=-500.0,  # half way between air and water, as in every lung segmentation
    magnitude=False,
    suffixes=frozenset(("ct",)),
    folders=frozenset(("ct",)),
    by_values=_hounsfield,
    sop_class="1.2.840.10008.5.1.4.1.1.2",
    dicom_empty=("KVP", "AcquisitionNumber"),
    rescale_type="HU",
    ucum="HounsfieldUnit",
    monai_format="hounsfield",
)
MODALITIES: Registry[Modality] = Registry(
    "medldm.modalities", lambda member: isinstance(member, Modality), {MR.name: MR, CT.name: CT}
)
DEFAULT = MR  # what a scan is taken for when nothing speaks for another modality


def modality_of(name: str | None) -> Modality:
    """A modality by its name in files and options, in any case; the default one for an unknown name."""
    return MODALITIES.get((name or "").lower(), DEFAULT)


def holds_magnitudes(name: str | None) -> bool:
    """Whether a modality, named in any case, is known and its values are magnitudes."""
    return modality_of(name).magnitude if (name or "").lower() in MODALITIES else False


def modality_by_name(path: Path) -> str | None:
    """Name of the modality that a BIDS suffix or folder says, else None."""
    return next((known.name for known in _default_last() if known.named(path)), None)


def guess_modality(volume: Volume, asked: str = "auto") -> tuple[str, str]:
    """Name of a scan's modality, and how we know.

    Parameters
    ----------
    volume : scan
    asked : ``--modality``

    Returns
    -------
    modality, and a sentence; empty when the user, the file or its name says it
    """
    if asked != "auto":
        return asked, ""
    import numpy as np

    from medldm.data.outliers import set_aside

    stored = volume.stored.modality
    said = stored if stored in MODALITIES else modality_by_name(Path(volume.name))
    if said:
        return said, ""
    voxels: Any = set_aside(volume)[0].voxels  # one absurd voxel is no reason to take an MR scan for CT
    with np.errstate(invalid="ignore"):
        low, high = float(np.nanmin(voxels)), float(np.nanmax(voxels))
    likely, reason = next((known, why) for known in _default_last() if (why := known.by_values(low, high)))
    others = " or ".join(name for name in MODALITIES if name != likely.name)
    return likely.name, f"{volume.name} is taken for {likely.title}, since {reason}; say --modality {others} otherwise."


def _default_last() -> list[Modality]:
    return sorted(MODALITIES.values(), key=lambda known: known is DEFAULT)
