"""Several restorations of one scan: their mean, how much they differ, and an interval that was calibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medldm.settings import Settings
from medldm.zoo import Card

FARTHEST = 12.0  # voxels; beyond it calibration saw nothing, and the error has long stopped to grow
NEARBY = 8.0  # voxels; width of the Gaussian over which the share of measured voxels is taken


class Interval(NamedTuple):
    """How the interval of one verb is scaled: ``mean +- q * sqrt(s^2 + floor^2)``.

    The spread s is that of the spread head. The floor is what it does not know, for instance that a scan of another
    scanner differs from those it learned from. Its square is a sum of independent parts,
    ``still^2 + (noisy * sigma)^2 + far^2 * r + (busy * c)^2``: what is wrong everywhere, what is left of the noise,
    what was never measured, and what lies a little aside of where it is.
    The remoteness r is a distance: between two measured slices an image behaves like a random walk (the power spectrum
    of natural images falls with the square of the frequency: Field, J Opt Soc Am A 4, 1987), and the variance of a
    random walk grows with the distance to the nearest place where it is known; the less there is measured around, the
    faster. The local contrast c of the restored image turns a shift into an error, as a slope does.

    Parameters
    ----------
    still, far : scaled intensity; `far` per root of a voxel
    noisy : share of the noise level
    busy : share of the local contrast
    q : conformal scale
    coverage : share of voxels that the interval was calibrated to hold
    """

    still: float
    noisy: float
    far: float
    busy: float
    q: float
    coverage: float = 0.9

    def floor(self, mean: Tensor, sigma: Tensor, observed: Tensor) -> Tensor:
        """(X, Y, Z), scaled intensity.

        Parameters
        ----------
        mean : (X, Y, Z) restored, scaled intensity
        sigma : noise level, scaled intensity, (X, Y, Z) or broadcastable
        observed : (X, Y, Z) observation map, 0 where nothing was measured
        """
        squared = self.still**2 + (self.noisy * sigma) ** 2 + self.far**2 * remoteness(observed)
        return (squared + (self.busy * local_contrast(mean)) ** 2).sqrt()

    def half_width(self, mean: Tensor, std: Tensor, sigma: Tensor, observed: Tensor) -> Tensor:
        """(X, Y, Z) half width of the interval, scaled intensity.

        Parameters
        ----------
        std : (X, Y, Z) spread s, scaled intensity
        mean, sigma, observed : as in `floor`
        """
        return self.q * (std**2 + self.floor(mean, sigma, observed) ** 2).sqrt()


def interval_for(card: Card, verb: str) -> Interval | None:
    """The calibrated interval of a verb, None where the card holds none.

    Parameters
    ----------
    card : of the model
    verb : that runs
    """
    fitted: Mapping[str, Any] = card.calibration.get("verbs", {}).get(verb, {})
    names = ("still", "noisy", "far", "busy", "q")
    if not card.spread or any(name not in fitted for name in names):
        return None
    return Interval(**{name: float(fitted[name]) for name in names}, coverage=card.calibration["coverage"])


def why_not(interval: Interval | None, settings: Settings, name: str) -> str:
    """Why a run gets no calibrated interval, in words; empty when it does.

    Parameters
    ----------
    interval : of the verb
    settings : of the run
    name : of the model
    """
    if interval is None:
        return f"{name} has no calibrated interval for this task"
    return "intervals were calibrated at --fidelity 1" if settings.fidelity < 1 else ""


def distance_to_measured(observed: Tensor) -> Tensor:
    """(X, Y, Z) distance of each voxel from the nearest one that was measured, voxels, at most `FARTHEST`.

    Parameters
    ----------
    observed : (X, Y, Z) observation map, 0 where nothing was measured
    """
    empty = observed <= 0
    if not bool(empty.any()) or bool(empty.all()):
        return torch.zeros_like(observed)
    return torch.from_numpy(ndimage.distance_transform_edt(empty.numpy())).to(observed).clamp_max(FARTHEST)


def remoteness(observed: Tensor) -> Tensor:
    """(X, Y, Z) distance to the nearest measured voxel times the share of voxels around that were not, voxels.

    A gap between whole slabs is easier to fill than as wide a one between single slices: on validation scans intervals
    that knew the distance alone held 96 % of the voxels of the first and 84 % of the second.

    Parameters
    ----------
    observed : (X, Y, Z) observation map, 0 where nothing was measured
    """
    distance = distance_to_measured(observed)
    if not bool(distance.any()):
        return distance
    near = ndimage.gaussian_filter(observed.float().numpy(), NEARBY, truncate=3.0)
    return distance * (1 - torch.from_numpy(near).to(observed).clamp(0, 1))


def local_contrast(mean: Tensor) -> Tensor:
    """(X, Y, Z) standard deviation over the 3 x 3 x 3 voxels around each.

    Parameters
    ----------
    mean : (X, Y, Z)
    """
    voxels = mean.float().numpy()
    average, square = ndimage.uniform_filter(voxels, 3), ndimage.uniform_filter(voxels**2, 3)
    return torch.from_numpy(np.sqrt(np.maximum(square - average**2, 0)))


def mean_and_spread(
    draw: Callable[[int], Tensor], count: int, *, opposite: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation over draws, one in memory at a time (Welford, Technometrics 4, 1962).

    Parameters
    ----------
    draw : makes restoration number n, (X, Y, Z)
    count : how many
    opposite : whether draws 2n and 2n + 1 lie opposite each other; then the mean hardly varies, so that the squared
        distances from it are divided by the count, not by one less

    Returns
    -------
    mean, and standard deviation (None for a single draw)
    """
    mean = draw(0)
    if count == 1:
        return mean, None
    squares = torch.zeros_like(mean)
    for number in range(1, count):
        drawn = draw(number)
        change = drawn - mean
        mean = mean + change / (number + 1)
        squares = squares + change * (drawn - mean)
    # Of an odd number one draw has no partner, and moves the mean by the count-th part of its deviation.
    freedom = count - (count % 2) / count if opposite else count - 1
    return mean, (squares / freedom).sqrt()
