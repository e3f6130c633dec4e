"""Drawn cut-outs of an organ, and a generator that learned from them for seconds."""

import csv

import nibabel as nib
import numpy as np

from medldm.models.generator import GeneratorConfig

SHAPE = (32, 32, 32)


def organ(seed, shape=SHAPE):
    """A bright ellipsoid in grey tissue, uint8; its size and place follow from the seed."""
    random = np.random.default_rng(seed)
    middle = np.array(shape) / 2 + random.uniform(-2, 2, 3)
    radii = np.array([6, 10, 7]) * random.uniform(0.8, 1.2)
    where = np.indices(shape).reshape(3, -1).T
    inside = (((where - middle) / radii) ** 2).sum(1) < 1
    voxels = np.where(inside, 180.0, 90.0).reshape(shape) + random.normal(0, 3, shape)
    return np.clip(voxels, 0, 255).astype(np.uint8)


def write_organs(folder, count=8):
    """A folder of cut-outs with a split table; the last quarter is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name = f"organ_{number:02d}.nii.gz"
        nib.save(nib.Nifti1Image(organ(number), np.eye(4)), folder / name)
        split = "val" if number >= 3 * count // 4 else "train"
        sex, age = ("f", "m")[number % 2], 20 + 5 * number
        rows.append((split, name, f"person{number}", "MR T1w", "CC0", age, sex))
    with (folder / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", "file", "subject", "modality", "licence", "age", "sex"))
        writer.writerows(rows)
    return folder


def toy_config():
    """The smallest generator that has every part."""
    return GeneratorConfig(
        shape=SHAPE,
        spacing=1.0,
        regions=("hippocampus",),
        autoencoder=(16, 16),
        latent_channels=4,
        flow=(16, 32),
        token=16,
    )


def train_toy(folder, minutes=0.02, config=None):
    """Path of the card of a generator trained for a moment."""
    from medldm.training.generation.run import train_generator

    data = write_organs(folder / "organs")
    return train_generator(
        data,
        folder / "toy-generator",
        minutes=minutes,
        region="hippocampus",
        config=config or toy_config(),
        validate_s=600,
    )
