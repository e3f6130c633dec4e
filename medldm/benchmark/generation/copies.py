"""Does a generator copy? The training scans nearest to its samples, against those nearest to held-out people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from medldm.benchmark.generation.sets import Array, Sets, is_large
from medldm.benchmark.generation.table import Score, numbers_of, percent
from medldm.metrics import memorisation

MORE_COPIES = 0.05  # goal: share of copies above that of held-out people


def memorised(sets: Sets, random: np.random.Generator) -> list[Score]:
    """Nearest training scans of samples against those of held-out people."""
    training, training_decoded = sets.training.coarse(), sets.training_decoded.coarse()
    mask = torch.from_numpy(sets.training.foreground())
    if is_large(mask):
        mask = F.avg_pool3d(mask[None].float(), 2)[0] >= 0.5
    samples = sets.samples.coarse()
    decoded = [memorisation.nearest(v, training_decoded, mask) for v in (samples, sets.held_out_decoded.coarse())]
    plain = [memorisation.nearest(v, training, mask) for v in (samples, sets.held_out.coarse())]
    inside = torch.ones(sets.latents["samples"].shape[1:], dtype=torch.bool)
    latent = [
        torch.stack([
            memorisation.correlations(sets.latents[name], sets.latents[side], inside)
            for side in ("training", "mirrored")
        ]).amax((0, 2)).double().numpy()
        for name in ("samples", "held_out")
    ]  # fmt: skip
    scores = [
        _copies(
            "copies",
            "Share of copies: nearest training scan, after autoencoder and alignment",
            [part.correlation for part in decoded],
            random,
            f"goal: at most {100 * MORE_COPIES:g} points above held-out people; all scans decoded, so that noise plays "
            "no part",
            goal=True,
        ),
        _copies(
            "copies_as_scanned",
            "Share of copies, training scans and held-out people as scanned",
            [part.correlation for part in plain],
            random,
            "samples have no noise, which alone brings them nearer to every scan",
        ),
        _copies(
            "copies_by_margin",
            "Share of samples that stand out: nearest training scan ahead of the second nearest",
            [part.margin for part in decoded],
            random,
            "a copy is much nearer to one training scan than to all others",
        ),
        _copies("copies_in_latent_space", "Share of copies, correlation of latents", latent, random, "no alignment"),
    ]
    nearest = decoded[0]
    scores[0].numbers["nearest"] = [
        {
            "sample": sets.samples.files[number],
            "description": str(sets.samples.descriptions[number]),
            "training_scan": sets.training.files[nearest.scan[number]],
            "number": int(nearest.scan[number]),
            "mirrored": bool(nearest.mirrored[number]),
            "correlation": float(nearest.correlation[number]),
            "margin": float(nearest.margin[number]),
        }
        for number in range(len(sets.samples))
    ]
    return scores


def _copies(
    name: str, title: str, values: Sequence[Array], random: np.random.Generator, note: str, *, goal: bool = False
) -> Score:
    ours, held_out = values
    result = memorisation.copies(ours, held_out, random)
    return Score(
        name=name,
        title=title,
        samples=f"{percent(result.share)}; {np.median(ours):.3f} at the median",
        real=f"{100 * result.share_held_out:.0f} % of held-out people; {np.median(held_out):.3f} at the median",
        meaning=f"above {result.threshold:.3f}, which one in twenty held-out people exceeds; {note}",
        numbers={
            "threshold": result.threshold,
            "share": numbers_of(result.share),
            "share_held_out": result.share_held_out,
            "excess": numbers_of(result.excess),
            "median_samples": float(np.median(ours)),
            "median_held_out": float(np.median(held_out)),
            "highest_sample": float(np.max(ours)),
            "highest_held_out": float(np.max(held_out)),
        },
        passed=result.excess.value <= MORE_COPIES if goal else None,
    )
