"""Small volumes with known geometry, drawn rather than downloaded, and how to write them as NIfTI."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np

from medldm.data.volume import Stored, Volume

# Of no shipped set, since it missed gates (record 0055); tests need a flow that was trained.
RESEARCH_FLOW = Path(__file__).parents[1] / "docs" / "training" / "flow" / "brain-mri-2d-flow.json"
PEAK = 1000.0  # the brightest tissue of the MRI phantoms, stored units
OBLIQUE = np.array([[0.85, 0.1, -0.3, -30.0], [-0.12, 0.9, 0.2, -41.0], [0.2, -0.1, 2.9, 12.0], [0, 0, 0, 1.0]])


def coordinates(shape):
    """(X, Y, Z, 3) positions from -1 to 1 along every axis."""
    axes = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def brain(shape=(48, 56, 40)):
    """A brain-like ellipsoid: dark ventricles, a bright core, a grey rim, smooth texture, black air; float32."""
    at = coordinates(shape)
    radius = np.sqrt((at**2 / np.array([0.8, 0.85, 0.8]) ** 2).sum(-1))
    wavy = 0.06 * np.sin(9 * at[..., 0]) * np.cos(8 * at[..., 1] + 2 * at[..., 2])
    tissue = 0.55 + 0.35 / (1 + np.exp((radius + wavy - 0.7) * 20))
    ventricles = ((at - [0, 0.1, 0]) ** 2 / np.array([0.2, 0.35, 0.25]) ** 2).sum(-1) < 1
    tissue = np.where(ventricles, 0.2, tissue) * (1 + 0.08 * at[..., 1] + 0.03 * np.sin(5 * at).sum(-1))
    return np.where(radius < 1, PEAK * tissue, 0).astype(np.float32)


def rician(voxels, sigma, seed=0):
    """Magnitude of a complex image with Gaussian noise in both parts."""
    draw = np.random.default_rng(seed)
    return np.hypot(voxels + sigma * draw.standard_normal(voxels.shape), sigma * draw.standard_normal(voxels.shape))


def phantom(shape=(48, 56, 40), spacing=(1.0, 1.0, 1.0)):
    """The brain on an upright grid."""
    return Volume(brain(shape), np.diag([*spacing, 1.0]), name="phantom", stored=Stored(modality="mr"))


def oblique_phantom(shape=(40, 44, 16)):
    """The brain on an oblique grid with thick slices."""
    return Volume(brain(shape), OBLIQUE, name="oblique", stored=Stored(modality="mr"))


def one_slice(shape=(40, 44)):
    """A single plane through the middle of the brain."""
    middle = brain((*shape, 9))[:, :, 4:5]
    return Volume(middle, np.diag([1.0, 1.0, 5.0, 1.0]), name="one slice", stored=Stored(modality="mr"))


def ct(shape=(48, 48, 12), noise_hu=12.0, seed=0):
    """An abdomen: soft tissue, bone, a lung of air, around it air, and padding of -2000 outside the round field."""
    at = coordinates(shape)
    inplane = np.sqrt((at[..., :2] ** 2).sum(-1))
    hu = np.where(inplane < 0.75, 40.0, -1000.0)
    hu = np.where(((at[..., :2] - [0.3, 0]) ** 2).sum(-1) < 0.04, -800.0, hu)
    hu = np.where(((at[..., :2] + [0, 0.5]) ** 2).sum(-1) < 0.015, 700.0, hu)
    hu = np.rint(hu + noise_hu * np.random.default_rng(seed).standard_normal(shape)).astype(np.int16)
    hu[inplane > 1] = -2000
    stored = Stored(dtype=np.dtype(np.int16), modality="ct")
    return Volume(hu, np.diag([0.8, 0.8, 3.0, 1.0]), name="abdomen", stored=stored)


def with_missing_slices(volume, slices, value=0):
    """The volume with some slices along its third axis emptied."""
    voxels = volume.voxels.copy()
    voxels[:, :, list(slices)] = value
    return volume.with_voxels(voxels)


def save(path: Path, voxels, affine=None, *, dtype=None, code=1, header=None, **fields):
    """Write voxels with nibabel, header fields as named, whatever they are; returns the path."""
    array = np.asarray(voxels, dtype=dtype)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine, header, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=code)
    image.set_qform(image.affine, code=code)
    nib.save(image, path)
    return patch(path, **fields) if fields else path


def patch(path: Path, **fields):
    """Change header fields of an unpacked NIfTI-1 file behind everybody's back."""
    content = path.read_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[348:])
    return path


def tiny_model(folder: Path, spatial_dims: int = 2, *, spread: bool = True, flow: bool = True) -> Path:
    """A tiny regression network with spread head and residual flow, if wanted; weights from a fixed seed."""
    import torch

    from medldm.models.checkpoint import save_model
    from medldm.models.residual import ResidualFlow, SpreadHead
    from medldm.models.unet import build_unet
    from medldm.settings import Architecture

    context = 5 if spatial_dims == 2 else 1
    shape = Architecture(spatial_dims=spatial_dims, context=context, unet=(8, 8, 8, 8), unet_units=1)
    latent = {"spatial_dims": 3, "context": 1, "latent_channels": 4, "latent_factor": 4, "flow": [16, 16]}
    volumes = Architecture(spatial_dims=3, context=1, latent_channels=4, flow=(16, 16))
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        network, head, sampler = build_unet(shape), SpreadHead(spatial_dims, 8), ResidualFlow(volumes, 1)
        # Last layers that start from zero would change nothing, and a test of samples would see nothing.
        for part, std in ((network, 0.02), (head, 0.05), (sampler, 0.05)):
            for weights in part.parameters():
                if weights.ndim > 1 and not weights.any():
                    torch.nn.init.normal_(weights, std=std)
        basis = torch.linalg.qr(torch.randn(64, 4))[0]
    decoder = torch.zeros(64, 4, 3, 3, 3)
    decoder[:, :, 1, 1, 1] = basis * 2
    parts = {"unet": network.state_dict()}
    if spread:
        parts["spread"] = head.state_dict()
    flow = flow and spread
    if flow:
        parts["latent"] = {"basis": basis, "scale": 2 * torch.ones(4), "decoder": decoder}
        parts["flow"] = sampler.state_dict()
    card = {
        "name": f"tiny-{spatial_dims}d" if flow else f"tiny-{spatial_dims}d-{'spread' if spread else 'unet'}",
        "title": "a tiny set for tests",
        "modality": "mr",
        "spatial_dims": spatial_dims,
        "role": "restorer",
        "verbs": ["denoise", "super-resolve", "fill-slices", "inpaint", "restore"],
        "architecture": asdict(shape),
        "spread": spread,
        "residual": {**latent, "flow_blocks": 1, "tile": 12} if flow else {},
        "licence": "none",
    }
    return save_model(parts, card, folder)
