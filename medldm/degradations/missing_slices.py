"""Missing slices: a mask along the slice axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from medldm.degradations.degradation import CleanScan, Degradation, NoiseOnTop, Observation, Row, uniform
from medldm.degradations.sampling import along, interpolation_matrix, outer
from medldm.modality import CT, MR


class MissingSlices(Degradation):
    """Slices that were never acquired, or are damaged beyond use.

    Parameters
    ----------
    voxels : number of slices of the wanted scan
    missing : which are missing, counted from 0
    axis : slice axis
    """

    linear: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    across_slices: ClassVar[bool] = True
    shares: ClassVar[Mapping[str, float]] = {MR.name: 0.18, CT.name: 0.1}
    noise_on_top: ClassVar[NoiseOnTop] = NoiseOnTop(0.25, 0.09)

    def __init__(self, voxels: int, missing: Sequence[int] = (), axis: int = 2) -> None:
        self.axis = axis
        self.measured = torch.ones(voxels, dtype=torch.bool)
        self.measured[list(missing)] = False
        if not self.measured.any():
            raise ValueError("every slice is missing; nothing is left to restore from")
        self._interpolate = interpolation_matrix(torch.nonzero(self.measured).flatten().to(torch.float64), voxels)

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Missing slices become 0; the shape stays."""
        return clean * outer({self.axis: self.measured}, clean.shape).to(clean)

    def adjoint(self, measured: Tensor) -> Tensor:
        """The same mask: it is its own adjoint."""
        return self.degrade(measured)

    def to_grid(self, measured: Tensor) -> Tensor:
        """Measured slices as they are, linear interpolation between them."""
        kept = measured.index_select(self.axis, torch.nonzero(self.measured).flatten().to(measured.device))
        return along(self._interpolate, kept, self.axis)

    def observe(self, measured: Tensor) -> Observation:
        """Interpolated slices, and which were measured."""
        return Observation(self.to_grid(measured), outer({self.axis: self.measured}, measured.shape).to(measured))

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """Measured slices are copied, bit for bit."""
        mask = self.measured.to(guess.device).reshape([-1 if a == self.axis else 1 for a in range(guess.ndim)])
        return torch.where(mask, measured, guess)

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Every fourth slice missing."""
        return (cls(shape[2], missing=range(3, shape[2] - 3, 4)),)

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: torch.Generator) -> Degradation:
        """Every n-th slice kept, random slices lost, or whole gaps."""
        slices = torch.arange(shape[0])
        kind = uniform(0, 1, generator)
        if kind < 0.35:
            every = int(uniform(2, 6, generator))
            lost = (slices + int(uniform(0, every, generator))) % every != 0
        elif kind < 0.6:
            lost = torch.rand(shape[0], generator=generator) < uniform(0.1, 0.5, generator)
        else:
            lost = torch.zeros(shape[0], dtype=torch.bool)
            for _ in range(int(uniform(1, 5, generator))):
                start = int(uniform(0, shape[0], generator))
                lost[start : start + int(uniform(1, 7, generator))] = True
        lost[int(uniform(0, shape[0], generator))] = False
        return cls(shape[0], slices[lost].tolist(), axis=0)

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """Every fourth slice kept."""
        return {"gap4": cls(shape[0], [k for k in range(shape[0]) if k % 4], axis=0)}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Option: which slices are missing, as `missing_slices` reads it."""
        verb = "fill-slices"
        return (
            Row("every-4th-kept", verb, cls, {"missing": "every 4 kept"}, core=True, quick=True),
            Row("gap-of-3", verb, cls, {"missing": "gap of 3"}, core=True),
            Row("every-2nd-kept", verb, cls, {"missing": "every 2 kept"}),
            Row("every-3rd-kept", verb, cls, {"missing": "every 3 kept"}),
            Row("random-10", verb, cls, {"missing": "random 10 %"}),
            Row("random-30", verb, cls, {"missing": "random 30 %"}),
            Row("random-50", verb, cls, {"missing": "random 50 %"}),
            Row("gap-of-5", verb, cls, {"missing": "gap of 5"}),
            Row("edge-of-3", verb, cls, {"missing": "edge of 3"}, without_ends=True),
            Row("every-4th-kept-noise-3", verb, cls, {"missing": "every 4 kept"}, level=0.03),
            Row("lesions-every-4th-kept", verb, cls, {"missing": "every 4 kept"}, lesions=True),
            Row("lesions-gap-of-5", verb, cls, {"missing": "gap of 5"}, lesions=True),
            Row("ct-every-2nd-kept", verb, cls, {"missing": "every 2 kept"}, modality=CT.name),
            Row("ct-gap-of-3", verb, cls, {"missing": "gap of 3"}, modality=CT.name),
        )

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """The row's slices missing along the slice axis."""
        missing = missing_slices(row.options["missing"], scan.shape[scan.axis], generator)
        return cls(scan.shape[scan.axis], missing, scan.axis), {"missing": missing}


def missing_slices(kind: str, count: int, generator: torch.Generator) -> list[int]:
    """Which slices a row of the benchmark loses.

    Parameters
    ----------
    kind : ``"every N kept"``, ``"gap of N"``, ``"random N %"`` or ``"edge of N"``
    count : slices of the scan
    generator : source of randomness
    """
    parts = kind.split()
    number = next(int(part) for part in parts if part.isdigit())
    if parts[0] == "every":
        return [k for k in range(count) if k % number]
    if parts[0] == "random":
        # The outermost two stay, so that every lost slice lies between measured ones.
        order = torch.randperm(max(0, count - 2), generator=generator)[: round(count * number / 100)]
        return sorted(int(k) + 1 for k in order)
    if parts[0] == "edge":
        return list(range(number))
    starts = range(12, count - 12, 12)  # gaps far enough apart not to touch
    shift = int(torch.randint(6, (1,), generator=generator))
    return [start + shift + k for start in starts for k in range(number)]
