"""The validation table of the shipped brain-MRI set: `python docs/benchmarks/validation.py ../shared/data`.

PSNR in dB of the fixed cubes that the training curves show (validation subjects, one plane), of every stage of the
chain: what the cards and docs/decisions quote. About a minute on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from medldm.chain import Chain, latent_noise, load_chain
from medldm.models.inputs import centre_plane
from medldm.training.patches import load_cache, pack
from medldm.training.validation import cubes, score
from medldm.zoo import best


def main(data: Path) -> None:
    """Print the table."""
    card = best("mr")
    chain = load_chain(card)
    latent, shape = chain.latent, chain.shape
    assert latent is not None
    assert chain.unet is not None
    rival = Chain(shape, chain.unet)

    def proposed(inputs: torch.Tensor) -> torch.Tensor:
        first, told = chain.begin(inputs)
        return latent.decode(chain.propose(inputs, told, first, torch.zeros_like(latent_noise(first, shape)), 1))

    ways = {
        "input": lambda inputs: centre_plane(inputs, shape),
        "supervised estimate b": rival.restore,
        "decode E(y)": lambda inputs: latent.decode(latent.encode(centre_plane(inputs, shape))),
        "decode E(b)": lambda inputs: latent.decode(latent.encode(chain.begin(inputs)[0])),
        "decode the flow's one-step latent": proposed,
        "chain": chain.restore,
        "chain, fidelity 0": lambda inputs: chain.restore(inputs, fidelity=0.0),
    }
    with tempfile.TemporaryDirectory() as cache:
        pack(data, Path(cache))
        cases = cubes(load_cache(Path(cache), "val"), shape)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        table = {name: score(cases, way) for name, way in ways.items()}
    rows = list(table["input"])
    print(f"{card.name} {card.sha256[:8]}\n\n| | {' | '.join(rows)} |\n{'|---' * (len(rows) + 1)}|")
    for name, scores in table.items():
        print(f"| {name} | {' | '.join(f'{scores[row]:.2f}' for row in rows)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
