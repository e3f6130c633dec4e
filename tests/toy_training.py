"""Training at toy size: networks of a few channels, blocks of a few voxels, seconds instead of hours."""

import math

import numpy as np
import phantoms
import torch

from medldm.settings import Architecture
from medldm.training.data import Packed
from medldm.training.stages.stage import Sizes

PLANES = Architecture(context=3, unet=(8, 8), unet_strides=(1,), unet_units=1)
VOLUMES = Architecture(spatial_dims=3, context=1, unet=(8, 8), unet_strides=(1,), unet_units=1)
LATENT = Architecture(spatial_dims=3, context=1, latent_channels=4, flow=(16, 16))
SIZES = Sizes(batch=2, patch=32, scenes=2, scene=24, spread=16, flow=2, most=8)
TOY = {"config": PLANES, "latent": LATENT, "sizes": SIZES, "validate_s": 600}  # arguments of `train`


def folder(place, *, subjects=3, shape=(52, 48, 56), head="split,file,subject", rest=""):
    """Phantoms of some subjects, 16 bits, the last one to judge by, with their table; the folder."""
    place.mkdir(parents=True, exist_ok=True)
    rows = [head]
    for number in range(subjects):
        noisy = phantoms.rician(np.roll(phantoms.brain(shape), number, axis=0) * (1 + number / 10), 10, number)
        phantoms.save(place / f"s{number}_T1w.nii.gz", noisy, dtype=np.int16)
        split = "val" if number == subjects - 1 else "train"
        rows.append(f"{split},s{number}_T1w.nii.gz,s{number}{rest}")
    (place / "split.csv").write_text("\n".join(rows) + "\n")
    return place


def ct_folder(place, *, subjects=3, shape=(52, 48, 40)):
    """The same of CT."""
    place.mkdir(parents=True, exist_ok=True)
    rows = ["split,file,subject,modality"]
    for number in range(subjects):
        voxels = phantoms.ct(shape, seed=number).voxels
        phantoms.save(place / f"s{number}_ct.nii.gz", voxels, np.eye(4), dtype=np.int16)
        rows.append(f"{'val' if number == subjects - 1 else 'train'},s{number}_ct.nii.gz,s{number},CT abdomen")
    (place / "split.csv").write_text("\n".join(rows) + "\n")
    return place


def seeded(number=0):
    """A generator on the CPU."""
    return torch.Generator().manual_seed(number)


def scan(voxels, spacing=(1.0, 1.0, 1.0), weight=1.0, scale=1.0):
    """A packed scan without a file."""
    thick = max(spacing) > 1.6 * min(spacing)
    return Packed(voxels, scale, spacing, int(np.argmax(spacing)), not thick, weight, "s_T1w.nii.gz", "s")


def numbered(shape, first=1):
    """A volume in which every voxel has a value of its own."""
    return np.arange(first, first + math.prod(shape), dtype=np.uint16).reshape(shape)
