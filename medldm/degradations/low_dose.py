"""Low-dose CT: quantum and electronic noise of a sinogram, reconstructed alone and added to the scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medldm.degradations.degradation import CleanScan, Degradation, Observation, Row
from medldm.degradations.noise import BOUND
from medldm.modality import CT

WATER_PER_MM = 0.0192  # attenuation of water at 70 keV (Hubbell and Seltzer, NIST 126), the energy of a 120 kV beam
VIEWS = 360  # over half a turn
COARSE = 4  # line integrals are smooth: they are taken from a slice so much coarser

Array = npt.NDArray[Any]


class LowDose(Degradation):
    """The noise that a fraction of the dose would add.

    Photons that reach the detector are Poisson, N0 exp(-p) of N0, and the electronics add noise of their own, so the
    line integral p has variance exp(p) / N0 + (e exp(p) / N0)^2 (La Riviere, Med Phys 32, 2005). What a scan at full
    dose has already is subtracted. Filtered back-projection is linear: the noise is reconstructed alone and added,
    so nothing of the image is blurred by reconstructing it a second time.

    Parameters
    ----------
    dose : fraction of the full dose, in (0, 1]
    pixel_mm : of the planes
    axis : that slices are stacked along
    photons : N0, photons a detector element counts behind air at full dose, each view
    electronic : standard deviation of the electronic noise, photons
    views : projections over half a turn
    kernel : filter of the reconstruction, ``"ramp"`` is sharp, ``"hann"`` soft
    """

    adds_noise: ClassVar[bool] = True

    def __init__(
        self,
        dose: float = 0.25,
        pixel_mm: float = 0.8,
        axis: int = 2,
        photons: float = 2e5,
        electronic: float = 10.0,
        views: int = VIEWS,
        kernel: str = "hann",
    ) -> None:
        if not 0 < dose <= 1:
            raise ValueError(f"dose is a fraction in (0, 1], not {dose}")
        self.dose, self.pixel_mm, self.axis = dose, pixel_mm, axis
        self.photons, self.electronic, self.views, self.kernel = photons, electronic, views, kernel

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The scan at a fraction of its dose, slice by slice."""
        if self.dose == 1:
            return clean
        slices = clean.movedim(self.axis, 0)
        scaling = CT.scaling(slices.numpy())
        noisy = torch.stack(
            [
                plane + torch.from_numpy(self.noise(scaling.invert(plane.numpy()), generator) / scaling.unit).to(plane)
                for plane in slices
            ]
        )
        return noisy.movedim(0, self.axis)

    def noise(self, hounsfield: Array, generator: torch.Generator | None) -> Array:
        """Noise image of one slice.

        Parameters
        ----------
        hounsfield : (H, W) HU
        generator : source of randomness

        Returns
        -------
        (H, W) float32, HU
        """
        # Here and below: training imports this room and may run where neither library is installed.
        from skimage.transform import iradon

        integrals = self.line_integrals(hounsfield)
        variance = self.variance(integrals, self.photons * self.dose) - self.variance(integrals, self.photons)
        normal = torch.randn(integrals.shape, generator=generator).numpy()
        side = max(hounsfield.shape)
        # Half a turn in parallel beams; the pixel is the unit of length of the noise of p.
        attenuation = iradon(
            normal * np.sqrt(variance) / self.pixel_mm,
            theta=np.linspace(0, 180, self.views, endpoint=False),
            output_size=side,
            filter_name=self.kernel,
            circle=False,
        )
        start = [(side - size) // 2 for size in hounsfield.shape]
        inside = tuple(slice(a, a + size) for a, size in zip(start, hounsfield.shape, strict=True))
        noisy: Array = (1000 * attenuation[inside] / WATER_PER_MM).astype(np.float32)
        return noisy

    def line_integrals(self, hounsfield: Array) -> Array:
        """Attenuation along every ray, (detectors, views), without unit.

        Parameters
        ----------
        hounsfield : (H, W) HU
        """
        from scipy import ndimage
        from skimage.transform import radon

        side = max(hounsfield.shape)
        square = np.full((side, side), CT.air)
        start = [(side - size) // 2 for size in hounsfield.shape]
        square[tuple(slice(a, a + n) for a, n in zip(start, hounsfield.shape, strict=True))] = hounsfield
        attenuation = np.clip(1 + square / 1000, 0, None) * WATER_PER_MM  # per mm
        coarse = ndimage.zoom(attenuation, 1 / COARSE, order=1, grid_mode=True, mode="nearest")
        few = np.linspace(0, 180, max(1, self.views // COARSE), endpoint=False)
        sums = radon(coarse, theta=few, circle=False) * self.pixel_mm * side / coarse.shape[0]
        detectors = math.ceil(math.sqrt(2) * side)
        fine = ndimage.zoom(
            sums, (detectors / sums.shape[0], self.views / sums.shape[1]), order=1, grid_mode=True, mode="nearest"
        )
        smooth: Array = np.clip(fine, 0, 12)  # behind metal nothing arrives; a scanner's software clips there, too
        return smooth

    def variance(self, integrals: Array, photons: float) -> Array:
        """Variance of measured line integrals.

        Parameters
        ----------
        integrals : p, without unit
        photons : behind air
        """
        behind: Array = np.exp(integrals) / photons
        total: Array = behind + (self.electronic * behind) ** 2
        return total

    def observe(self, measured: Tensor) -> Observation:
        """The noisy image itself: every voxel was measured."""
        return Observation(measured, torch.ones_like(measured))

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """Keep each voxel within 4 typical differences of the measurement.

        What was added is not known, so the median difference of guess and measurement stands for its strength: single
        voxels are held, a guess that is wrong everywhere is not.
        """
        difference = (measured - guess).abs()
        level = 1.4826 * difference.median()
        return guess.clamp(min=measured - BOUND * level, max=measured + BOUND * level)

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Few views of large pixels, for speed."""
        return (cls(pixel_mm=8.0, views=24),)

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Fractions of the dose, on scans and on a drawn object."""
        return (
            Row("ct-dose-4", "denoise", cls, {"dose": 1 / 4}, modality=CT.name),
            Row("ct-dose-4-blind", "denoise", cls, {"dose": 1 / 4}, modality=CT.name, given=False),
            Row("ct-dose-10", "denoise", cls, {"dose": 1 / 10}, modality=CT.name),
            Row("ct-object-dose-4", "denoise", cls, {"dose": 1 / 4}, modality=CT.name, drawn=True),
        )

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """The row's dose, in planes of this scan."""
        pixel_mm = scan.spacing[0 if scan.axis else 1]
        return cls(**row.options, pixel_mm=pixel_mm, axis=scan.axis, views=VIEWS), {}
