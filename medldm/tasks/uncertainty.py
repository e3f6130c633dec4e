"""Several restorations of one scan: their mean and how much they differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mean_and_spread(draw: Callable[[int], Tensor], count: int) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation over draws, one in memory at a time (Welford, Technometrics 4, 1962).

    Parameters
    ----------
    draw : makes restoration number n, (X, Y, Z)
    count : how many

    Returns
    -------
    mean, and standard deviation (None for a single draw)
    """
    mean = draw(0)
    if count == 1:
        return mean, None
    squares = torch.zeros_like(mean)
    for number in range(1, count):
        each = draw(number)
        change = each - mean
        mean = mean + change / (number + 1)
        squares = squares + change * (each - mean)
    return mean, (squares / (count - 1)).sqrt()
