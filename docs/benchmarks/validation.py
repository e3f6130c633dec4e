"""The validation tables of a set: `python docs/benchmarks/validation.py ../shared/data [MODEL]`.

On the fixed cubes that the training curves show (validation subjects): PSNR in dB of every stage of the pipeline, in
one orientation and in all, then what became of fine detail at fidelity 1 and 0; what the cards and
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
from medldm.inference.networks import Networks, load_networks
from medldm.inference.tiling import SamplerConfig, restore
from medldm.training.data import load_cache, pack
from medldm.training.validation import EDGE, Cube, cubes, score, score_volumes
from medldm.zoo import best, card

OneOrientation = Callable[[torch.Tensor], torch.Tensor]
AllOrientations = Callable[[Cube], torch.Tensor]


def main(data: Path, model: str | None = None) -> None:
    """Print the tables of the shipped set, or of another."""
    shown = card(model) if model else best("mr")
    networks = load_networks(shown, precision=torch.bfloat16)
    shape = networks.config
    one_orientation, all_orientations = stages(networks)
    with tempfile.TemporaryDirectory() as cache:
        pack(data, Path(cache), shown.modality.upper())
        cases = cubes(load_cache(Path(cache), "val"), shape)
    with torch.inference_mode():
        table = {name: score(cases, orientation) for name, orientation in one_orientation.items()}
        table |= {name: score_volumes(cases, orientation) for name, orientation in all_orientations.items()}
        details = detail_rows(cases, all_orientations, networks.latent.vae) if networks.latent else {}
    rows = list(table["input"])
    print(f"{shown.name} {shown.sha256[:8]}\n\n| | {' | '.join(rows)} |\n{'|---' * (len(rows) + 1)}|")
    for name, scores in table.items():
        print(f"| {name} | {' | '.join(f'{scores[row]:.2f}' for row in rows)} |")
    if not details:
        return  # there is no encoder to measure a perceptual distance with
    print("\nFine detail: energy / correlation / perceptual distance\n")
    print(f"| | {' | '.join(rows)} |\n{'|---' * (len(rows) + 1)}|")
    for name, scored in details.items():
        cells = [f"{energy:.2f} / {place:.3f} / {felt:.4f}" for energy, place, felt in (scored[row] for row in rows)]
        print(f"| {name} | {' | '.join(cells)} |")


def stages(networks: Networks) -> tuple[dict[str, OneOrientation], dict[str, AllOrientations]]:
    """What is scored: every stage of the pipeline, in one orientation and in all; of a U-Net alone its estimate."""
    latent, shape = networks.latent, networks.config
    unet_alone = Networks(shape, networks.unet) if networks.unet else networks
    one_orientation: dict[str, OneOrientation] = {
        "input": lambda inputs: centre_plane(inputs, shape),
        "supervised estimate b": unet_alone.estimate,
    }
    all_orientations: dict[str, AllOrientations] = {
        "supervised estimate b, all orientations": lambda case: restore(
            unet_alone, case.observation, case.sigma, case.orientations, SamplerConfig.whole()
        ),
    }
    if latent is None:
        return one_orientation, all_orientations

    def proposed(inputs: torch.Tensor) -> torch.Tensor:
        return latent.decode(networks.sample(inputs, networks.estimate(inputs)))

    one_orientation |= {
        "decode E(y)": lambda inputs: latent.decode(latent.encode(centre_plane(inputs, shape))),
        "decode E(b)": lambda inputs: latent.decode(latent.encode(networks.estimate(inputs))),
        "decode the flow's one-step latent": proposed,
    }
    all_orientations |= {
        "pipeline, all orientations": lambda case: restore(
            networks, case.observation, case.sigma, case.orientations, SamplerConfig.whole()
        ),
        "pipeline, all orientations, fidelity 0": lambda case: restore(
            networks, case.observation, case.sigma, case.orientations, SamplerConfig.whole(fidelity=0.0)
        ),
    }
    return one_orientation, all_orientations


def detail_rows(
    cases: Sequence[Cube], orientations: dict[str, Callable[[Cube], torch.Tensor]], vae: Any
) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Energy ratio and correlation of fine detail, and perceptual distance; mean over the cubes of each row.

    Detail is compared along the damaged axis, or along all; of missing slices, in those alone.
    """

    def features(image: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        planes = torch.from_numpy(np.moveaxis(image[:, 8:-8:8], 1, 0).copy())[:, None]
        return [level.transpose(0, 1).float().numpy() for level in vae.features(planes)]

    known: dict[str, dict[str, list[tuple[float, ...]]]] = {name: {} for name in orientations}
    for case in cases:
        true = case.clean.numpy()
        where = true > 0.05
        where[:EDGE] = where[-EDGE:] = False
        if case.task == "gap4":
            where[::4] = False
        axes = (0,) if case.task in ("thick4", "gap4") else (0, 1, 2)
        for name, orientation in orientations.items():
            guess = orientation(case).float().numpy()
            scores = (
                metrics.detail_energy_ratio(guess, true, where, axes),
                metrics.detail_correlation(guess, true, where, axes),
                metrics.feature_distance(features, guess, true),
            )
            known[name].setdefault(case.task, []).append(scores)
    return {name: {row: np.mean(values, 0) for row, values in rows.items()} for name, rows in known.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
