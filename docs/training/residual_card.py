"""Make a model set of the parts of a run: `python docs/training/residual_card.py RUN --unet WEIGHTS OUT`.

RUN is the folder of the first campaign's residual.py (until record 0050), with spread.safetensors,
principal.safetensors and flow.safetensors, or the checkpoint of a flow that is still being trained; WEIGHTS holds the
regression network under ``unet.``. OUT gets weights and card, to name with ``--model OUT``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from medldm.models.checkpoint import save_model
from medldm.training.run import FLOW_BLOCKS, LATENT, default_config
from medldm.training.state import CHECKPOINT, part

PLANES = default_config(2)
KEPT = ("basis", "scale", "decoder")  # of the latent
FIELDS = ("spatial_dims", "context", "latent_channels", "latent_factor", "vae", "flow")  # of the residual's shape


def model_set(run: Path, unet: Path, out: Path, name: str = "residual") -> Path:
    """Write the set.

    Parameters
    ----------
    run : folder of residual.py
    unet : weights of the regression network
    out : folder of the set
    name : of the set

    Returns
    -------
    path of the card
    """
    sources = {"spread": "spread.", "principal": "principal.", "flow": "flow."}
    files = {name: run / f"{name}.safetensors" for name in sources}
    checkpoint = run / "flow" / CHECKPOINT
    if not files["flow"].is_file() and checkpoint.is_file():
        files["flow"], sources["flow"] = checkpoint, "average."
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise SystemExit(f"{run} lacks {', '.join(missing)} of the first campaign.")
    parts = {name: part(load_file(file), sources[name]) for name, file in files.items()}
    latent = parts.pop("principal")
    parts |= {"unet": part(load_file(unet), "unet."), "latent": {key: latent[key] for key in KEPT}}
    shape = asdict(LATENT)
    card: dict[str, Any] = {
        "name": name,
        "title": "Planes of brain MRI; residual latent flow in volumes",
        "modality": "mr",
        "spatial_dims": PLANES.spatial_dims,
        "role": "restorer",
        "verbs": ["denoise", "super-resolve", "fill-slices", "inpaint"],
        "architecture": asdict(PLANES),
        "spread": True,
        "licence": "CC BY 4.0",
        "residual": {key: shape[key] for key in FIELDS} | {"flow_blocks": FLOW_BLOCKS},
    }
    return save_model(parts, card, out)


def main() -> None:
    """Write the set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--unet", type=Path, required=True)
    parser.add_argument("--name", default="residual")
    options = parser.parse_args()
    print(model_set(options.run, options.unet, options.out, options.name))


if __name__ == "__main__":
    main()
