"""Few scans go far: contrasts, fields and intensities that other scanners would have given the same anatomy."""

from __future__ import annotations

import torch
from torch import Tensor

from medldm.degradations import smooth_field


def augment(clean: Tensor, generator: torch.Generator) -> Tensor:
    """The same anatomy as another sequence or coil might show it.

    Parameters
    ----------
    clean : (H, W, D) scaled intensity, 0 is air
    generator : source of randomness

    Returns
    -------
    (H, W, D), still about [0, 1.3], air still dark
    """
    if _chance(0.45, generator):
        clean = remap(clean, generator)
    if _chance(0.3, generator):
        field = smooth_field(tuple(clean.shape), generator, knots=3)
        clean = clean * (0.65 + 0.7 * field)
    return clean * (0.8 + 0.4 * float(torch.rand((), generator=generator)))


def remap(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast remapping: gamma, a random rising curve, or one that turns around as T2 does to T1.

    Parameters
    ----------
    clean : (H, W, D) scaled intensity
    """
    kind = float(torch.rand((), generator=generator))
    if kind < 0.35:
        gamma = 2 ** (1.6 * float(torch.rand((), generator=generator)) - 0.8)
        return clean.clamp_min(0) ** gamma
    knots = torch.linspace(0, 1.3, 7)
    if kind < 0.7:
        rises = torch.rand(6, generator=generator) + 0.15
        values = torch.cat([torch.zeros(1), torch.cumsum(rises, 0) / rises.sum() * 1.2])
    else:
        # Tissue levels change places; the first knot keeps air dark, so that edges to air stay edges.
        values = torch.cat([torch.zeros(1), 0.15 + torch.rand(6, generator=generator)])
    return piecewise_linear(clean, knots, values)


def piecewise_linear(image: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Look intensities up in a curve; beyond the last knot the curve goes on with its last slope.

    Parameters
    ----------
    image : any shape
    knots : (K,) ascending
    values : (K,)
    """
    upper = torch.searchsorted(knots, image.contiguous()).clamp(1, len(knots) - 1)
    slope = (values[1:] - values[:-1]) / (knots[1:] - knots[:-1])
    return values[upper - 1] + (image - knots[upper - 1]) * slope[upper - 1]


def _chance(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)
