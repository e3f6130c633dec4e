"""The rows of the protocol: what is done to a scan. Core rows make the README's table, the others the full run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medldm.errors import UsageError


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    name : as ``--tasks`` takes it
    verb : that restores it
    level : Rician noise, fraction of p99.5; 0 for none
    given : whether methods are told the noise level
    gain : of spatially varying noise; 1 for even noise
    spacing : of thick slices, mm; 0 for none
    missing : ``"every N kept"``, ``"gap of N"``, ``"random N %"``, ``"edge of N"`` or empty
    in_plane : factor of k-space truncation (CT: of averaging); 1 for none
    region_mm : diameter of blobs; 0 for none
    thickness : of thick slices, mm; 0 for as thick as far apart
    profile, told_profile : of thick slices, as made and as methods are told
    modality : ``"mr"`` or ``"ct"``
    dose : CT, fraction of the full dose; 1 for no noise
    lesions : whether lesions are put into the scan before it is degraded
    drawn : the scan is a drawn test object
    """

    name: str
    verb: str
    level: float = 0.0
    given: bool = True
    gain: float = 1.0
    spacing: float = 0.0
    missing: str = ""
    in_plane: float = 1.0
    region_mm: float = 0.0
    thickness: float = 0.0
    profile: str = "gaussian"
    told_profile: str = "gaussian"
    modality: str = "mr"
    dose: float = 1.0
    lesions: bool = False
    drawn: bool = False

    @property
    def needs_thin(self) -> bool:
        """Whether the reference must have thin slices."""
        return bool(self.spacing or self.missing)

    @property
    def seeded_as(self) -> str:
        """Rows with one seed differ in what methods are told, not in what was measured."""
        return self.name.removesuffix("-blind").removesuffix("-mismatch")


CORE = (
    Row("noise-3", "denoise", level=0.03),
    Row("noise-3-blind", "denoise", level=0.03, given=False),
    Row("noise-7", "denoise", level=0.07),
    Row("noise-7-blind", "denoise", level=0.07, given=False),
    Row("noise-varying", "denoise", level=0.02, gain=3.0, given=False),
    Row("thick-3mm", "super-resolve", spacing=3.0),
    Row("thick-4mm", "super-resolve", spacing=4.0),
    Row("thick-6mm", "super-resolve", spacing=6.0),
    Row("thick-3.7mm", "super-resolve", spacing=3.7),
    Row("thick-4mm-noise-3", "super-resolve", spacing=4.0, level=0.03),
    Row("plane-x2", "super-resolve", in_plane=2.0),
    Row("every-4th-kept", "fill-slices", missing="every 4 kept"),
    Row("gap-of-3", "fill-slices", missing="gap of 3"),
    Row("region-20mm", "inpaint", region_mm=20.0),
)
MORE = (
    Row("noise-1", "denoise", level=0.01),
    Row("noise-5", "denoise", level=0.05),
    Row("noise-5-blind", "denoise", level=0.05, given=False),
    Row("noise-9", "denoise", level=0.09),
    Row("noise-9-blind", "denoise", level=0.09, given=False),
    Row("noise-varying-x2", "denoise", level=0.03, gain=2.0, given=False),
    Row("thick-2mm", "super-resolve", spacing=2.0),
    Row("thick-5mm", "super-resolve", spacing=5.0),
    Row("thick-4mm-rect", "super-resolve", spacing=4.0, profile="rect", told_profile="rect"),
    Row("thick-4mm-rect-mismatch", "super-resolve", spacing=4.0, profile="rect"),
    Row("thick-3mm-gap-1mm", "super-resolve", spacing=4.0, thickness=3.0),
    Row("every-2nd-kept", "fill-slices", missing="every 2 kept"),
    Row("every-3rd-kept", "fill-slices", missing="every 3 kept"),
    Row("random-10", "fill-slices", missing="random 10 %"),
    Row("random-30", "fill-slices", missing="random 30 %"),
    Row("random-50", "fill-slices", missing="random 50 %"),
    Row("gap-of-5", "fill-slices", missing="gap of 5"),
    Row("edge-of-3", "fill-slices", missing="edge of 3"),
    Row("every-4th-kept-noise-3", "fill-slices", missing="every 4 kept", level=0.03),
    Row("region-10mm", "inpaint", region_mm=10.0),
    Row("region-30mm", "inpaint", region_mm=30.0),
    Row("lesions-noise-7", "denoise", level=0.07, lesions=True),
    Row("lesions-thick-4mm", "super-resolve", spacing=4.0, lesions=True),
    Row("lesions-every-4th-kept", "fill-slices", missing="every 4 kept", lesions=True),
    Row("lesions-gap-of-5", "fill-slices", missing="gap of 5", lesions=True),
    Row("ct-dose-4", "denoise", modality="ct", dose=1 / 4),
    Row("ct-dose-4-blind", "denoise", modality="ct", dose=1 / 4, given=False),
    Row("ct-dose-10", "denoise", modality="ct", dose=1 / 10),
    Row("ct-plane-x2", "super-resolve", modality="ct", in_plane=2.0),
    Row("ct-object-dose-4", "denoise", modality="ct", dose=1 / 4, drawn=True),
)
FULL = CORE + MORE
QUICK = ("noise-3", "thick-4mm", "every-4th-kept", "region-20mm")
GROUPS = {
    "core": tuple(row.name for row in CORE),
    "all": tuple(row.name for row in FULL),
    "lesions": tuple(row.name for row in FULL if row.lesions),
    "ct": tuple(row.name for row in FULL if row.modality == "ct"),
}


def chosen_rows(tasks: Sequence[str] | None, quick: bool) -> list[Row]:
    """The rows that are asked for: by name or group, each once; the core rows when nobody asks.

    Raises
    ------
    UsageError
    """
    known = {row.name: row for row in FULL}
    names = [each for task in tasks or ("core",) for each in GROUPS.get(task, (task,))]
    for name in names:
        if name not in known:
            raise UsageError(f"There is no row {name!r}; there are {', '.join(GROUPS)} and {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names) if tasks or not quick or name in QUICK]
