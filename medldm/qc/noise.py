"""Noise level of a scan, by published estimators, and whether it can be trusted.

MRI. A second difference along every well-sampled axis (Immerkaer, CVIU 64, 1996; along three axes almost no anatomy
is left) is taken where the smoothed image is flat (Coupe et al., Med Image Anal 14, 2010), inside the head. Its
median absolute deviation (Donoho and Johnstone, Biometrika 81, 1994) is corrected for the narrowing of Rician noise
at low signal (Koay and Basser, J Magn Reson 179, 2006). Where the background was left as measured, the median of its
Rayleigh distribution gives a second opinion (Sijbers et al., Phys Med Biol 52, 2007), which smooth noise cannot fool.

CT. Reconstruction kernels correlate the noise, so differences of neighbours mislead; the mode of the local standard
deviation in soft tissue does not (global noise level: Christianson et al., AJR 205, 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import ive

from medldm.data.volume import Voxels
from medldm.modality import DEFAULT, MODALITIES
from medldm.qc.differences import fine_axes, flat_tissue, second_difference

Mask = npt.NDArray[np.bool_]

MAD_TO_SIGMA = 1 / 0.674490  # of a normal distribution
RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
FEWEST = 200  # voxels that a median needs
ANATOMY = 1.4  # differences of second neighbours that are so much larger are not white noise
STEEPER = 1.6  # anatomy: second differences of second neighbours over those of neighbours, each axis; less is safer
LEAST = 0.7  # of an estimate that is left when anatomy is taken away
SHARED = 0.1  # correlation of neighbours in air above which its noise is not white; 0.00 to 0.02 of white noise
RAYLEIGH_LIKE = 1.9  # upper over lower quartile of air; 2.19 of a Rayleigh distribution, 1.67 of two coils
AGREEMENT = 1.5  # two opinions within this factor agree
REACH = 6  # voxels of air around the tissue that are looked at too; every filter here reaches less far
WINDOW = 9  # voxels along the edge of a local standard deviation in CT, about 6 mm


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of one scan.

    Parameters
    ----------
    sigma : standard deviation, stored units (CT: HU)
    level : the number that ``--noise`` takes: MRI a fraction of the 99.5th foreground percentile, CT HU
    unit : of `level`, in words
    reliable : False when the estimate should not be trusted blindly
    reasons : why not
    """

    sigma: float
    level: float
    unit: str
    reliable: bool
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        number = f"{100 * self.level:.1f} % of p99.5" if self.unit == "fraction" else f"{self.level:.0f} {self.unit}"
        return number if self.reliable else f"{number} (unreliable: {'; '.join(self.reasons)})"


def estimate_noise(
    voxels: Voxels, spacing: tuple[float, float, float] = (1, 1, 1), modality: str = DEFAULT.name
) -> NoiseEstimate:
    """Noise level of a scan.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units; NaN where nothing was measured
    spacing : mm; axes much coarser than the finest are not differentiated along
    modality : name in `medldm.modality.MODALITIES`
    """
    return NoisyScan(voxels, spacing, modality).estimate()


def noise_map(
    voxels: Voxels,
    spacing: tuple[float, float, float] = (1, 1, 1),
    modality: str = DEFAULT.name,
    reach_mm: float = 8.0,
    overall: float | None = None,
) -> Voxels:
    """Noise level at each voxel, smooth, for parallel imaging (Aja-Fernandez et al., Magn Reson Imaging 33, 2015).

    Parameters
    ----------
    voxels : (X, Y, Z) stored units
    spacing : mm
    modality : name in `medldm.modality.MODALITIES`
    reach_mm : standard deviation of the neighbourhood that one value is averaged over
    overall : sigma of `estimate_noise`, stored units, where it is known already

    Returns
    -------
    (X, Y, Z) float32, standard deviation in stored units; its median in flat tissue is that of `estimate_noise`
    """
    return NoisyScan(voxels, spacing, modality).map(reach_mm, overall)


class NoisyScan:
    """A scan as its noise is looked at; what the level and the map both need is computed once.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units; NaN where nothing was measured
    spacing : mm
    modality : name in `medldm.modality.MODALITIES`
    foreground : (X, Y, Z) bool, of `Modality.foreground`, where it is known already
    """

    def __init__(
        self,
        voxels: Voxels,
        spacing: tuple[float, float, float] = (1, 1, 1),
        modality: str = DEFAULT.name,
        foreground: Mask | None = None,
    ) -> None:
        self.spacing, self.modality = spacing, MODALITIES[modality]
        nothing = self.modality.air
        self.image = np.nan_to_num(np.asarray(voxels, dtype=np.float32), nan=nothing, posinf=nothing, neginf=nothing)
        self.axes = fine_axes(self.image.shape, spacing)
        self._voxels, self._foreground = voxels, foreground

    def estimate(self) -> NoiseEstimate:
        """As `estimate_noise`."""
        model = self.modality.noise
        if self.tissue.sum() < FEWEST:
            return NoiseEstimate(0.0, 0.0, model.unit, False, ("too few tissue voxels",))
        sigma, reasons = self._rician_level() if model.tissue is None else self._global_noise_level()
        level = sigma / self.modality.scaling(self._voxels, self.tissue).unit if model.relative else sigma
        return NoiseEstimate(sigma, level, model.unit, not reasons, tuple(reasons))

    def map(self, reach_mm: float = 8.0, overall: float | None = None) -> Voxels:
        """As `noise_map`.

        Local means of the absolute second difference in flat tissue, on a coarse grid; what is far above its
        neighbourhood is an edge and is cut. Away from tissue the nearest tissue counts.
        """
        shape = self.image.shape
        overall = self.estimate().sigma if overall is None else overall
        if self.tissue.sum() < FEWEST or overall == 0:
            return np.full(shape, overall, dtype=np.float32)
        flat, difference = self.flat[self.box], np.abs(self.difference[self.box])
        steps = tuple(
            max(1, min(size // 4, round(reach_mm / 2 / mm))) for size, mm in zip(shape, self.spacing, strict=True)
        )
        grid, whole = Coarse(shape, steps, self.box), Coarse(shape, steps)
        reach = [reach_mm / (mm * step) for mm, step in zip(self.spacing, grid.steps, strict=True)]
        weight = grid.shrink(flat.astype(np.float32))
        level = float(difference[flat].mean())
        local = np.full(weight.shape, level, dtype=np.float32)
        for _ in range(3):  # cut edges against the local level, not the overall one
            cut = np.where(flat, np.minimum(difference, 2.5 * grid.grow(local)), 0)
            local = _shared(grid.shrink(cut), weight, reach, level)
        ratio = whole.grow(local)
        mapped: Voxels = (ratio * (overall / float(np.median(ratio[self.flat])))).astype(np.float32)
        return mapped

    @cached_property
    def tissue(self) -> Mask:
        """(X, Y, Z) bool: the foreground, or soft tissue by its values."""
        if self.modality.noise.tissue is None:
            return self.modality.foreground(self._voxels) if self._foreground is None else self._foreground
        low, high = self.modality.noise.tissue
        smooth = ndimage.uniform_filter(self.image, [3 if size > 2 else 1 for size in self.image.shape])
        inside: Mask = (smooth > low) & (smooth < high)
        return inside

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """Around the tissue, and as much air as filters reach into; half of a scan is air farther away."""
        box = []
        for axis in range(3):
            at = np.flatnonzero(self.tissue.any(tuple(other for other in range(3) if other != axis)))
            box.append(slice(max(0, int(at[0]) - REACH), int(at[-1]) + 1 + REACH) if len(at) else slice(None))
        return tuple(box)

    @cached_property
    def inner(self) -> Mask:
        """(X, Y, Z) bool, tissue two voxels away from its border, unless that leaves too little."""
        thin = self.tissue[self.box].view(np.uint8)
        for axis, size in enumerate(self.tissue.shape):
            if size > 4:  # an erosion by a cube, axis by axis
                thin = ndimage.minimum_filter1d(thin, 5, axis=axis, mode="constant", cval=0)
        if thin.sum() < FEWEST:
            return self.tissue
        inner = np.zeros_like(self.tissue)
        inner[self.box] = thin
        return inner

    @cached_property
    def flat(self) -> Mask:
        """(X, Y, Z) bool, see `flat_tissue`."""
        flat = np.zeros(self.image.shape, dtype=bool)
        flat[self.box] = flat_tissue(self.image[self.box], self.inner[self.box], self.axes)
        return flat

    @cached_property
    def difference(self) -> Voxels:
        """(X, Y, Z) second difference of neighbours, stored units."""
        return second_difference(self.image, self.axes)

    def _rician_level(self) -> tuple[float, list[str]]:
        signal = float(np.median(self.image[self.inner]))
        wider = second_difference(self.image[self.box], self.axes, lag=2)
        differences = (self.difference[self.flat], wider[self.flat[self.box]])
        near, beyond = (rician_correction(signal, _mad(difference)) for difference in differences)
        opinion, correlated, reasons = self._background()
        sigma = without_anatomy(near, beyond, len(self.axes))
        if beyond > ANATOMY * near:
            reasons.append("the noise is spatially correlated, or hidden by anatomy")
            if (
                opinion is not None and correlated
            ):  # air knows nothing of anatomy, and its median nothing of correlation
                sigma = min(max(opinion, near), beyond)
        if opinion is not None and not 1 / AGREEMENT < opinion / max(sigma, 1e-9) < AGREEMENT:
            reasons.append("background and tissue disagree")
        return sigma, reasons

    def _background(self) -> tuple[float | None, bool, list[str]]:
        """Sigma by the Rayleigh median of the air, None without measured air; whether its noise is correlated."""
        coarse = tuple(slice(None, None, 2) if size >= 64 else slice(None) for size in self.image.shape)
        air = ~ndimage.binary_dilation(self.tissue[coarse], iterations=4)
        if air.sum() < 10 * FEWEST:
            return None, False, []
        values = self.image[coarse][air]
        if (values == 0).mean() > 0.3:
            return None, False, ["the background is zeroed"]
        low, middle, high = np.percentile(values, [25, 50, 75])
        shared = np.mean([_correlation(self.image, coarse, air, axis) for axis in self.axes])
        # Ghosts, and coils whose squares were summed, lift the median without noise; then the shape is no Rayleigh's.
        return float(middle) / RAYLEIGH_MEDIAN, bool(shared > SHARED and high > RAYLEIGH_LIKE * low), []

    def _global_noise_level(self) -> tuple[float, list[str]]:
        """Mode of the local standard deviation over windows that hold nothing but soft tissue, HU."""
        image, tissue = self.image, self.tissue
        size = [WINDOW if axis in self.axes[:2] else 1 for axis in range(3)]
        centred = np.where(tissue, image - float(np.median(image[tissue])), 0).astype(np.float32)
        mean, square = ndimage.uniform_filter(centred, size), ndimage.uniform_filter(centred**2, size)
        count = math.prod(size)
        whole = ndimage.uniform_filter(tissue.astype(np.float32), size) > 1 - 0.5 / count
        if whole.sum() < FEWEST:
            return _mad(self.difference[tissue]), ["too little soft tissue in one piece"]
        spread = np.sqrt(np.maximum(square - mean**2, 0)[whole] * count / (count - 1))
        middle = float(np.median(spread))
        if middle == 0:
            return 0.0, []
        counts, edges = np.histogram(spread, bins=200, range=(0, 3 * middle))
        heap = ndimage.gaussian_filter1d(counts.astype(np.float64), 4)
        top = int(np.argmax(heap))
        return float(edges[top] + edges[top + 1]) / 2, []


def without_anatomy(near: float, beyond: float, axes: int) -> float:
    """Sigma without what anatomy adds to differences of neighbours.

    White noise is the same at both distances; fine anatomy is larger at the wider one, `STEEPER` times along each axis.
    So their difference tells how much of the nearer one is anatomy.

    Parameters
    ----------
    near, beyond : standard deviations by differences of neighbours, and of second neighbours
    axes : along how many axes they were taken

    Returns
    -------
    sigma, unit of `near`; at least `LEAST` of it
    """
    anatomy = max(beyond**2 - near**2, 0.0) / (STEEPER ** (2 * max(axes, 1)) - 1)
    return math.sqrt(max(near**2 - anatomy, (LEAST * near) ** 2))


def rician_correction(signal: float, measured: float) -> float:
    """Gaussian sigma behind the standard deviation of Rician magnitudes (Koay and Basser 2006, fixed point).

    Parameters
    ----------
    signal : typical magnitude of the tissue, mean or median; stored units
    measured : standard deviation of its magnitudes, stored units

    Returns
    -------
    sigma, stored units; within 3 % down to a signal-to-noise ratio of 1.5
    """
    if measured <= 0 or signal > 50 * measured:
        return max(measured, 0.0)  # as good as Gaussian, and Bessel functions of thousands cancel to nothing
    sigma = measured
    for _ in range(20):
        # E[M^2] = signal^2 + 2 sigma^2, and E[M^2] is the squared mean plus the variance.
        ratio = max((signal**2 + measured**2) / sigma**2 - 2, 0.0) ** 0.5
        sigma = measured / math.sqrt(max(_variance_share(ratio), 0.429))
    return sigma


class Coarse:
    """A grid of block means, and the way back by linear interpolation.

    Parameters
    ----------
    shape : fine voxels of the whole
    steps : fine voxels per coarse one, along each axis
    box : the part of the fine grid that is given and asked for; all of it by default
    """

    def __init__(self, shape: tuple[int, ...], steps: tuple[int, ...], box: tuple[slice, ...] | None = None) -> None:
        self.steps, self.counts = steps, [-(-size // step) for size, step in zip(shape, steps, strict=True)]
        self.ranges = [range(size)[part] for size, part in zip(shape, box or [slice(None)] * 3, strict=True)]

    def shrink(self, fine: Voxels) -> Voxels:
        """Sums over blocks, of the whole; outside the box there is nothing."""
        for axis, (step, part) in enumerate(zip(self.steps, self.ranges, strict=True)):
            first = part.start // step
            begins = np.maximum(np.arange(first, (part.stop - 1) // step + 1) * step - part.start, 0)
            fine = np.add.reduceat(fine, begins, axis=axis)
            after = self.counts[axis] - first - len(begins)
            fine = np.pad(fine, [(first, after) if a == axis else (0, 0) for a in range(3)])
        return fine

    def grow(self, coarse: Voxels) -> Voxels:
        """Linear interpolation between the centres of the blocks, edges repeated; in the box."""
        for axis, (step, part) in enumerate(zip(self.steps, self.ranges, strict=True)):
            at = np.clip((np.asarray(part) + 0.5) / step - 0.5, 0, coarse.shape[axis] - 1)
            low = np.floor(at).astype(int)
            high = np.minimum(low + 1, coarse.shape[axis] - 1)
            share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            coarse = np.take(coarse, low, axis=axis) * (1 - share) + np.take(coarse, high, axis=axis) * share
        return coarse


def _shared(total: Voxels, weight: Voxels, reach: list[float], level: float) -> Voxels:
    """Weighted local mean; where there is little tissue near by, what wider neighbourhoods say."""
    prior = np.float32(level)
    for wider in (4.0, 1.0):
        size = [wider * extent for extent in reach]
        near = [ndimage.gaussian_filter(array, size, mode="constant", truncate=3.0) for array in (total, weight)]
        doubt = np.float32(0.02 * float(weight.max()))
        prior = (near[0] + doubt * prior) / (near[1] + doubt)
    shared: Voxels = np.asarray(prior, dtype=np.float32)
    return shared


def _variance_share(snr: float) -> float:
    # Variance of a Rician variable with sigma 1; ive() is the exponentially scaled Bessel function.
    half = snr**2 / 4
    mean = math.sqrt(math.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
    return float(2 + snr**2 - mean**2)


def _correlation(image: Voxels, coarse: tuple[slice, ...], air: Mask, axis: int) -> float:
    """Correlation of neighbours along an axis in air, by their differences against those four voxels apart."""
    sizes = []
    for lag in (1, 4):
        if image.shape[axis] <= lag:
            return 0.0
        moved = np.take(image, np.minimum(np.arange(image.shape[axis]) + lag, image.shape[axis] - 1), axis)
        sizes.append(float(np.abs(moved - image)[coarse][air].mean()))
    return float(1 - (sizes[0] / sizes[1]) ** 2) if sizes[1] > 0 else 0.0


def _mad(values: Voxels) -> float:
    return float(np.median(np.abs(values))) * MAD_TO_SIGMA
