"""What a task is: one object that every interface reads, from the command line to the DICOM writer.

Help texts, menus and file labels need the registry and settings only, so none of them loads NumPy or torch; a task
imports what it computes with when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medldm.settings import Progress, Settings

if TYPE_CHECKING:
    from medldm.data.volume import Volume, Voxels
    from medldm.qc.inspection import Plan

S = TypeVar("S", bound=Settings)

# DICOM derivation codes, CID 7203. It has none for filling or inpainting; both resample what lies around.
SMOOTHING = ("113087", "DCM", "Smoothing")
RESAMPLING = ("113085", "DCM", "Spatial resampling")


class Need(Enum):
    """What a task is given besides its settings; a task may need nothing."""

    SCAN = "scan"
    MASK = "mask"
    TARGET = "target"


class Keeps(Enum):
    """Voxels that a task promises to return bit for bit."""

    NOTHING = "nothing"
    MEASURED_SLICES = "measured slices"
    OUTSIDE_MASK = "voxels outside the mask"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What menus and files call a task and its results.

    Parameters
    ----------
    title : in menus (``"Fill slices"``)
    past : of a layer (``"filled"``)
    desc : BIDS ``desc-`` entity; letters and digits
    derivation : DICOM derivation codes (value, scheme, meaning); none for a task that runs others
    examples : command lines for the help
    """

    title: str
    past: str
    desc: str
    derivation: tuple[tuple[str, str, str], ...] = ()
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a task works on; all optional, a generator is given nothing.

    Parameters
    ----------
    scan : as read
    mask : on the grid of the scan: a Volume, or (X, Y, Z) in the axes of ``scan.voxels``; non-zero means fill
    noise_map : on the grid of the scan, like the mask, in the unit of ``--noise``
    """

    scan: Volume | None = None
    mask: Volume | Voxels | None = None
    noise_map: Volume | Voxels | None = None


@dataclass(frozen=True, kw_only=True)
class Task(Generic[S]):
    """One thing that can be done.

    Parameters
    ----------
    name : as on the command line (``"fill-slices"``)
    help : one line
    settings : class of its settings; its fields are the options
    run : computes the result; called with (inputs, settings, progress), inputs that the task needs are never None.
        Returns the scan itself where nothing is to be done
    labels : of menus and files
    needs : inputs that it cannot do without
    keeps : voxels that come out bit for bit
    across_slices : whether the result in one slice depends on slices far from it
    removes_noise : whether what it changes is noise, and measured in its level
    networks : name of the task under which model cards say how this one uses the networks; its own when empty
    plan : for a task that runs others: which ones a scan needs; called with (scan, settings)
    intent : what it will do with a scan, as sentences; called with (scan, settings), looks at no voxels. The docstring
        of the settings says it where there is none
    """

    name: str
    help: str
    settings: type[S]
    run: Callable[[Inputs, S, Progress], Volume]
    labels: Labels
    needs: frozenset[Need] = frozenset({Need.SCAN})
    keeps: Keeps = Keeps.NOTHING
    across_slices: bool = False
    removes_noise: bool = False
    networks: str = ""
    plan: Callable[[Volume, S], Plan] | None = None
    intent: Callable[[Volume, S], str] | None = None

    @property
    def verb(self) -> str:
        """What the networks do, as model cards call it."""
        return self.networks or self.name

    @property
    def copies(self) -> bool:
        """Whether measured voxels come out bit for bit, so that nothing about them is uncertain."""
        return self.keeps is not Keeps.NOTHING


AnyTask = Task[Any]
