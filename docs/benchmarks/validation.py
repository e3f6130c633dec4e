"""The validation tables of a set: `python docs/benchmarks/validation.py ../shared/data [MODEL]`.

On the fixed cubes that the training curves show (validation subjects): PSNR in dB of every stage of the chain, looked
at in one way and in all, then what became of fine detail at fidelity 1 and 0; what the cards and
docs/decisions quote. A minute or two on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm import metrics
from medldm.inference.conditioning import centre_plane
from medldm.inference.networks import Chain, latent_noise, load_chain
from medldm.training.data import load_cache, pack
from medldm.training.validation import EDGE, Cube, cubes, score, score_volumes
from medldm.zoo import best, card

OneLook = Callable[[torch.Tensor], torch.Tensor]
AllLooks = Callable[[Cube], torch.Tensor]


def main(data: Path, model: str | None = None) -> None:
    """Print the tables of the shipped set, or of another."""
    shown = card(model) if model else best("mr")
    chain = load_chain(shown, precision=torch.bfloat16)
    shape = chain.shape
    one_look, all_looks = stages(chain)
    with tempfile.TemporaryDirectory() as cache:
        pack(data, Path(cache), shown.modality.upper())
        cases = cubes(load_cache(Path(cache), "val"), shape)
    with torch.inference_mode():
        table = {name: score(cases, way) for name, way in one_look.items()}
        table |= {name: score_volumes(cases, way) for name, way in all_looks.items()}
        details = detail_rows(cases, all_looks, chain.latent.vae) if chain.latent else {}
    rows = list(table["input"])
    print(f"{shown.name} {shown.sha256[:8]}\n\n| | {' | '.join(rows)} |\n{'|---' * (len(rows) + 1)}|")
    for name, scores in table.items():
        print(f"| {name} | {' | '.join(f'{scores[row]:.2f}' for row in rows)} |")
    if not details:
        return  # there is no encoder to measure a perceptual distance with
    print("\nFine detail: energy / correlation / perceptual distance\n")
    print(f"| | {' | '.join(rows)} |\n{'|---' * (len(rows) + 1)}|")
    for name, scored in details.items():
        told = [f"{energy:.2f} / {place:.3f} / {felt:.4f}" for energy, place, felt in (scored[row] for row in rows)]
        print(f"| {name} | {' | '.join(told)} |")


def stages(chain: Chain) -> tuple[dict[str, OneLook], dict[str, AllLooks]]:
    """What is scored: every stage of a chain, looked at in one way and in all; of a U-Net alone its estimate."""
    latent, shape = chain.latent, chain.shape
    rival = Chain(shape, chain.unet) if chain.unet else chain
    one_look: dict[str, OneLook] = {
        "input": lambda inputs: centre_plane(inputs, shape),
        "supervised estimate b": rival.estimate,
    }
    all_looks: dict[str, AllLooks] = {
        "supervised estimate b, all looks": lambda case: rival.restore_volume(case.observation, case.sigma, case.ways),
    }
    if latent is None:
        return one_look, all_looks

    def proposed(inputs: torch.Tensor) -> torch.Tensor:
        first = chain.estimate(inputs)
        return latent.decode(chain.propose(inputs, first, torch.zeros_like(latent_noise(first, shape))))

    one_look |= {
        "decode E(y)": lambda inputs: latent.decode(latent.encode(centre_plane(inputs, shape))),
        "decode E(b)": lambda inputs: latent.decode(latent.encode(chain.estimate(inputs))),
        "decode the flow's one-step latent": proposed,
    }
    all_looks |= {
        "chain, all looks": lambda case: chain.restore_volume(case.observation, case.sigma, case.ways),
        "chain, all looks, fidelity 0": lambda case: chain.restore_volume(case.observation, case.sigma, case.ways, 0.0),
    }
    return one_look, all_looks


def detail_rows(
    cases: Sequence[Cube], ways: dict[str, Callable[[Cube], torch.Tensor]], vae: Any
) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Energy ratio and correlation of fine detail, and perceptual distance; mean over the cubes of each row.

    Detail is compared along the damaged axis, or along all; of missing slices, in those alone.
    """

    def features(image: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        planes = torch.from_numpy(np.moveaxis(image[:, 8:-8:8], 1, 0).copy())[:, None]
        return [each.transpose(0, 1).float().numpy() for each in vae.features(planes)]

    found: dict[str, dict[str, list[tuple[float, ...]]]] = {name: {} for name in ways}
    for case in cases:
        true = case.clean.numpy()
        where = true > 0.05
        where[:EDGE] = where[-EDGE:] = False
        if case.task == "gap4":
            where[::4] = False
        axes = (0,) if case.task in ("thick4", "gap4") else (0, 1, 2)
        for name, way in ways.items():
            guess = way(case).float().numpy()
            scores = (
                metrics.detail_energy_ratio(guess, true, where, axes),
                metrics.detail_correlation(guess, true, where, axes),
                metrics.feature_distance(features, guess, true),
            )
            found[name].setdefault(case.task, []).append(scores)
    return {name: {row: np.mean(each, 0) for row, each in rows.items()} for name, rows in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
