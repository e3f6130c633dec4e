"""Scans on the grid of a generator, and back: registered to the mean of its training scans, or centred."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medldm.data import template
from medldm.data.resample import nearest_filled, resample_to
from medldm.data.volume import Affine, Volume, Voxels
from medldm.inference.generation import Generator, config_of, load_generator
from medldm.models.generator import GeneratorConfig
from medldm.zoo import Card


def may_show(card: Card, scan: Volume, modality: str) -> bool:
    """Whether a scan can show what a generator draws, by modality and extent; no voxel and no weight is read.

    Parameters
    ----------
    card : of a generator
    scan : as read
    modality : of the scan, a name in `medldm.modality.MODALITIES`
    """
    small = max(np.multiply(scan.shape, scan.spacing)) < template.SMALL_MM
    return card.modality == modality and bool(card.generator.get("centred")) == bool(small)


def on_grid(generator: Generator, card: Card, scan: Volume) -> Tensor:
    """A scan on the grid of a generator, (X, Y, Z) scaled intensity: registered to the mean, or centred.

    Parameters
    ----------
    generator, card : whose grid it is
    scan : as read, MR
    """
    return placed(generator, card, scan, mapping_to(generator, card, scan))


def mapping_to(generator: Generator, card: Card, scan: Volume) -> Affine:
    """(4, 4) RAS mm from the world of a generator's grid to that of a scan."""
    if card.generator.get("centred"):
        # The scan's own axes, its middle in the middle of the grid.
        mapping: Affine = scan.affine @ np.linalg.inv(template.centred_scan_affine(scan))
        return mapping
    return template.registered(template.scaled_intensity(scan), mean_scan(generator))


def mean_scan(generator: Generator) -> Volume:
    """The mean of the training scans, which is kept at half the grid."""
    config = generator.config
    affine = template.centred_affine(config.shape, config.spacing) @ np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(generator.mean.numpy(), affine, name="mean of the training scans")


def placed(generator: Generator, card: Card, scan: Volume, mapping: Affine) -> Tensor:
    """A scan on the grid of a generator, (X, Y, Z) scaled intensity.

    Parameters
    ----------
    generator, card : whose grid it is
    scan : as read
    mapping : of `mapping_to`
    """
    config, scaled = generator.config, template.scaled_intensity(scan)
    if card.generator.get("centred"):
        return torch.from_numpy(template.centred(scaled, config.shape, config.spacing))
    return torch.from_numpy(template.on_template(scaled, mapping, config.shape, config.spacing))


def on_card_grid(image: Volume, card: Card, config: GeneratorConfig, mapping: Affine) -> Voxels:
    """A mask or map, float32 and on the grid of its scan, on the grid of a generator; 0 outside of it."""
    own = replace(image, affine=np.linalg.inv(mapping) @ image.affine)
    grid = resample_to(own, template.centred_affine(config.shape, config.spacing), config.shape)
    return np.nan_to_num(grid)


def back_on_scan(voxels: Voxels, card: Card, scan: Volume, mapping: Affine) -> Voxels:
    """An image on the grid of a generator on that of a scan, its ends repeated where the scan is larger.

    Parameters
    ----------
    voxels : (X, Y, Z) on the grid of the generator
    card : of the generator
    scan : whose grid is wanted
    mapping : of `mapping_to`
    """
    config = config_of(card)
    image = Volume(voxels, mapping @ template.centred_affine(config.shape, config.spacing))
    on_scan = resample_to(image, scan.affine, scan.shape, "bspline")
    inside = np.isfinite(on_scan)
    return on_scan if inside.all() else nearest_filled(on_scan, inside)


def likeness(card: Card, scan: Volume, device: str) -> tuple[float, Affine]:
    """How well a scan fits the mean of a generator's training scans, and how the grid of the generator lies in it.

    Parameters
    ----------
    card : of a generator that the scan `may_show`
    scan : as read
    device : torch device

    Returns
    -------
    correlation of both on the generator's grid, in [-1, 1], and the mapping of `mapping_to`
    """
    generator = load_generator(card, device)
    mapping = mapping_to(generator, card, scan)
    half = placed(generator, card, scan, mapping)[::2, ::2, ::2]
    ours, theirs = half.flatten().double(), generator.mean.flatten().double()
    return float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1]), mapping
