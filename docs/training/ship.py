"""Put weights of finished runs into a shipped set: `python docs/training/ship.py NAME DATA PART=FILE ...`.

Each FILE holds the weights of one part: `weights.safetensors` of a stage's folder, its checkpoint (the averaged weights
are taken), or a file whose names begin with the part. Card fields that describe training and shape are made anew, the
others stay; `docs/benchmarks/calibrate.py` and `advise.py` bring them up to date. DATA is the folder with the manifest
that the runs learned from.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from medldm.benchmark.calibration import compact
from medldm.models.checkpoint import save_model
from medldm.training.publish import residual_fields
from medldm.training.run import FLOW_BLOCKS, LATENT
from medldm.training.stages.stage import Sizes
from medldm.training.state import part
from medldm.zoo import ROOM

TILE = Sizes().scene // LATENT.latent_factor  # of flows that were trained on a CPU
PARTS = ("unet", "spread", "latent", "flow")
STALE = ("weights", "sha256", "parts", "calibration", "validation", "residual", "spread")


def weights(name: str, path: Path) -> dict[str, Tensor]:
    """Weights of a part, whatever the file calls them."""
    tensors = load_file(path)
    if averaged := part(tensors, "average."):
        return averaged
    # Of a regression network alone some names begin with "unet." too.
    if all(key.startswith(tuple(f"{one}." for one in PARTS)) for key in tensors):
        return part(tensors, f"{name}.")
    return tensors


def people(data: Path, modality: str) -> dict[str, Any]:
    """Subjects per contrast and source, and licences, of the training split."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train" and float(row["weight"] or 1) > 0]
    rows = [row for row in rows if row["modality"].upper().startswith(modality.upper())]
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(f"{row['modality']} | {row['source'].split('@')[0]}", set()).add(row["subject"])
    return {
        "subjects": {key: len(who) for key, who in sorted(names.items())},
        "licences": dict(sorted(Counter(row["licence"] for row in rows).items())),
    }


def ship(name: str, data: Path, parts: dict[str, dict[str, Tensor]], folder: Path = ROOM) -> Path:
    """Write weights and card of a set.

    Parameters
    ----------
    name : of the set, whose card lies in `folder`
    data : folder with the manifest
    parts : weights by part
    folder : of the sets

    Returns
    -------
    path of the card
    """
    stored = json.loads((folder / f"{name}.json").read_text())
    card = {key: value for key, value in stored.items() if key not in STALE}
    shape = card["architecture"] | {"unet": widths(parts["unet"])}
    card["architecture"] = {
        key: value for key, value in shape.items() if key not in ("vae", "vae_entry", "staged", "flow")
    }
    card["training"] = {**card.get("training", {}), **people(data, card["modality"])}
    card["spread"], card["residual"] = "spread" in parts, {}
    if "flow" in parts:
        card["residual"] = residual_fields(LATENT, FLOW_BLOCKS, TILE)
    for use in card.get("use", {}).values():
        use.pop("psnr", None)
    path = save_model(parts, card, folder)
    path.write_text(compact(json.loads(path.read_text())))
    return path


def widths(unet: dict[str, Tensor]) -> list[int]:
    """Channels of each level of a regression network."""
    channels, prefix = [], "unet.model."
    while (key := f"{prefix}0.conv.unit0.conv.weight") in unet:
        channels.append(int(unet[key].shape[0]))
        prefix += "1.submodule."
    return [*channels, int(unet[f"{prefix}conv.unit0.conv.weight"].shape[0])]


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="+", metavar="PART=FILE")
    options = parser.parse_args()
    named = dict(one.split("=", 1) for one in options.parts)
    if unknown := set(named) - set(PARTS):
        raise SystemExit(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    print(ship(options.name, options.data, {key: weights(key, Path(path)) for key, path in named.items()}))


if __name__ == "__main__":
    main()
