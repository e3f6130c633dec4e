"""What the regression network is asked to keep small."""

from __future__ import annotations

from torch import Tensor


def root_mean_square(guess: Tensor, clean: Tensor, soft: float = 0.003) -> Tensor:
    """Root mean square error of each patch.

    Where much is unknown an absolute error asks for the median, which is darker or brighter than the mean; PSNR is
    highest at the mean. Taking the root of each patch keeps patches with much to invent from drowning the others.

    Parameters
    ----------
    guess, clean : (B, 1, ...)
    soft : keeps the gradient finite, scaled intensity

    Returns
    -------
    (B,)
    """
    return ((guess - clean) ** 2).flatten(1).mean(1).add(soft**2).sqrt() - soft
