"""A model as a MONAI bundle: a folder that runs with MONAI, nibabel and nothing of ours.

Denoising needs no more than the scan and its noise level, so that is what the bundle runs by itself. The networks
take every other damage, too: the README of the bundle says what their channels are.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medldm.errors import ModelError, OutputError
from medldm.export.torchscript import scripted
from medldm.inference.conditioning import MULTIPLE
from medldm.modality import modality_of
from medldm.models.checkpoint import architecture
from medldm.settings import Architecture
from medldm.zoo import Card

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
TILE = 96  # voxels along the edge of a tile of a volume network; planes go through whole
OVERLAP = 0.33  # 64 voxels from tile to tile, a multiple of 16, so that tiles share one latent grid


def export(card: Card, folder: Path) -> Path:
    """Write a bundle.

    Parameters
    ----------
    card : from `medldm.zoo`
    folder : of the bundle; must not exist, or be empty

    Returns
    -------
    the folder

    Raises
    ------
    OutputError, ModelError
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not empty. Name a new folder for the bundle.")
    if card.generator:
        raise ModelError(f"{card.name} draws scans; bundles are made of models that restore. Choose another one.")
    module = scripted(card)
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    module.save(str(folder / "models" / "model.ts"))
    _write(folder / "configs" / "metadata.json", metadata(card))
    _write(folder / "configs" / "inference.json", inference(card))
    (folder / "docs" / "README.md").write_text(readme(card), encoding="utf-8")
    (folder / "LICENSE").write_text(licence(card), encoding="utf-8")
    return folder


def metadata(card: Card) -> dict[str, Any]:
    """What the bundle is, as MONAI's schema wants it."""
    config = architecture(card)
    grid = [f"{MULTIPLE}*n"] * config.spatial_dims
    numbers: dict[str, Any] = {"type": "image", "modality": card.modality.upper(), "spatial_shape": grid}
    numbers |= {"format": modality_of(card.modality).monai_format, "dtype": "float32"}
    numbers |= {"value_range": [], "is_patch_data": True}
    channels = dict(enumerate(channel_names(config)))
    return {
        "schema": SCHEMA,
        "version": version("medldm"),
        "changelog": {version("medldm"): f"exported from {card.name}, SHA-256 {card.sha256}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel")},
        "optional_packages_version": {},
        "name": card.name,
        "task": f"Restoration of {card.modality.upper()} scans",
        "description": card.title,
        "authors": "The medldm authors",
        "copyright": f"Weights: {card.licence}. Code: Apache-2.0.",
        "data_source": "; ".join(f"{name} ({count} subjects)" for name, count in _listed(card, "subjects"))
        or "unknown",
        "data_type": "nibabel",
        "eval_metrics": card.validation,
        "intended_use": "; ".join(["Research use only: restored voxels are estimates", *card.limits]),
        "network_data_format": {
            "inputs": {"image": {**numbers, "num_channels": len(channels), "channel_def": channels}},
            "outputs": {"pred": {**numbers, "num_channels": 1, "channel_def": {0: "restored image, scaled intensity"}}},
        },
    }


def channel_names(config: Architecture) -> list[str]:
    """What each input channel of the networks holds."""
    half = config.context // 2
    steps = [f"plane {step:+d}" if step else "this plane" for step in range(-half, half + 1)]
    steps = steps if config.spatial_dims == 2 else ["the volume"]
    return [
        *(f"measurement on the output grid, scaled intensity, {step}" for step in steps),
        *(f"observation map, 1 measured, 0 missing, {step}" for step in steps),
        "noise standard deviation, scaled intensity, times 10",
        "log2 of the slice thickness in voxels, divided by 3",
    ]


def inference(card: Card) -> dict[str, Any]:
    """The configuration that denoises every NIfTI file of a folder."""
    kind = modality_of(card.modality)
    scaling = None if kind.noise.relative else kind.fixed_scaling
    flat = card.spatial_dims == 2
    scaled = "(v - @network.limits(v)[0]) / (@network.limits(v)[1] - @network.limits(v)[0])"
    return {
        "imports": ["$import glob", "$import os", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$os.path.join(@bundle_root, 'data')",
        "output_dir": "$os.path.join(@bundle_root, 'eval')",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "noise": kind.noise.example,
        "images": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$os.path.join(@bundle_root, 'models', 'model.ts')",
            "map_location": "@device",
        },
        "network": "$@network_def.eval()",
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [-1, -1] if flat else [TILE] * 3,
            "sw_batch_size": 8 if flat else 1,
            "overlap": OVERLAP,
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "image_only": True},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "EnsureTyped", "keys": "image", "device": "@device", "dtype": "$torch.float32"},
            ],
        },
        "sigma": "$lambda v: torch.full_like(v, @noise" + ("" if scaling is None else f" / {scaling.unit:g}") + ")",
        "scaled": f"$lambda v: {scaled}",
        "stored": "$lambda s, v: s * (@network.limits(v)[1] - @network.limits(v)[0]) + @network.limits(v)[0]",
        "inputs": "$lambda y, order: @network.channels(y, torch.ones_like(y), @sigma(y), 1.0, order)",
        "regressed": "$lambda y, order: @network.volume(@inferer(@inputs(y, order), @network), order)",
        "average": "$lambda y, orders: sum(@regressed(y, order) for order in orders) / len(orders)",
        "denoise": "$lambda y, spacing: @network.bounded("
        "@average(y, @network.pick_orientations(list(y.shape), spacing)), y, @sigma(y))"
        + (".clamp_min(0)" if kind.magnitude else ""),
        "restore": "$lambda v, spacing: @stored(@denoise(@scaled(v), spacing), v)",
        "predict": "$lambda item: {**item, 'pred': item['image'].clone().copy_("
        "@restore(item['image'][0].as_tensor(), [float(mm) for mm in item['image'].pixdim])[None])}",
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "restored",
                    "output_dtype": "$torch.float32",
                    "separate_folder": False,
                    "resample": False,
                },
            ],
        },
        "run": ["$[@postprocessing(@predict(@preprocessing({'image': path}))) for path in @images]"],
    }


def readme(card: Card) -> str:
    """How to run the bundle, and what its networks take."""
    config = architecture(card)
    kind = modality_of(card.modality)
    window = "" if kind.window is None else f"{kind.window[0]:g} to {kind.window[1]:g} {kind.unit}"
    lines = [
        f"# {card.name}",
        "",
        f"{card.title}. A MONAI bundle, written by medldm {version('medldm')}; it needs MONAI and nibabel, not medldm.",
        "",
        "> Research use only. Restored voxels are estimates.",
        "",
        "## Denoise a folder of NIfTI files",
        "",
        "```bash",
        "pip install monai nibabel fire",
        "python -m monai.bundle run --config_file configs/inference.json --dataset_dir scans --output_dir restored "
        f"--noise {kind.noise.example:g}",
        "```",
        "",
        f"`noise` is the standard deviation of the noise, {kind.noise.meaning}; "
        "medldm estimates it, the bundle must be given.",
        "No voxel moves by more than four standard deviations.",
        "",
        "The brightness scale is found more simply than in medldm (foreground: brighter than a tenth of the bright"
        if not window
        else f"The window is {window}; what lies outside is kept, since the networks write corrections.",
    ]
    if not window:
        lines.append(
            "voxels), so results on whole heads can differ by the width of a rounding; the networks are the same."
        )
    lines += [
        "",
        "## Other damage",
        "",
        "`models/model.ts` is TorchScript: `network(inputs)` takes one batch entry for each "
        + ("plane, (D, C, H, W)." if config.spatial_dims == 2 else "volume, (1, C, H, W, D).")
        + " `network.channels(y, observed, sigma, thickness, order)` makes the channels of a whole volume:",
        "",
        *(f"{number}. {name}" for number, name in enumerate(channel_names(config))),
        "",
        "That is one orientation; medldm and `inference.json` average several. `network.volume(guess, order)` puts",
        "restored planes back; `network.pick_orientations(shape, spacing)` says which orders to average. Spread and",
        "samples are not part of a bundle.",
        "For thick or missing slices, interpolate to the wanted grid, mark in `observed` what was measured, restore in",
        "both planes that contain the slice axis (it comes first in `order`), and put measured slices back afterwards;",
        "medldm does all that.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card.limits),
        "",
    ]
    return "\n".join(lines)


def licence(card: Card) -> str:
    """Licence of the weights, and whom they owe their training data."""
    lines = [
        f'Weights: {card.licence}. Attribution: "medldm model weights ({card.name}), the medldm authors".',
        "Configuration and TorchScript: Apache-2.0.",
        "Research use only. Restored voxels are estimates, not measurements.",
        "",
        "Licences of the training data (scans):",
        *(f"- {name}: {count}" for name, count in _listed(card, "licences")),
        "",
    ]
    return "\n".join(lines)


def _listed(card: Card, what: str) -> list[tuple[str, Any]]:
    return list(card.training.get(what, {}).items())


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
