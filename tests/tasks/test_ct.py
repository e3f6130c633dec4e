"""What a CT keeps: Hounsfield units of tissue, and whatever lies outside of any window."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import medldm
import medldm.zoo
from medldm.data.volume import Volume
from medldm.degradations import LowDose
from medldm.errors import ModelError

PIXEL_MM = 0.8
ZOO = Path(medldm.zoo.__file__).parent
INSERTS = {"fat": (-100, 0), "liver": (60, 72), "contrast": (300, 144), "bone": (1500, 216), "lung": (-850, 288)}


def cylinder(size=128, slices=16):
    """Water with inserts, air around it, padding in the corners; HU, and where each is surely homogeneous."""
    x, y = np.indices((size, size)) - size / 2
    hu, sure = np.full((size, size), -1000.0), {}
    hu[np.hypot(x, y) < 52] = 0
    for name, (value, degrees) in INSERTS.items():
        angle = np.radians(degrees)
        distance = np.hypot(x - 32 * np.cos(angle), y - 32 * np.sin(angle))
        hu[distance < 11], sure[name] = value, distance < 7
    hu[np.hypot(x, y) < 3] = 3000
    hu[np.hypot(x, y) > 80] = -2000
    sure |= {"water": (np.hypot(x, y) > 6) & (np.hypot(x, y) < 14), "metal": np.hypot(x, y) < 2}
    sure |= {"padding": hu == -2000}
    return np.repeat(hu[..., None], slices, 2).astype(np.float32), sure


@pytest.fixture(scope="module")
def restored():
    """A twentieth of the dose, denoised with the shipped set: truth, measured, result, inserts."""
    truth, sure = cylinder()
    dose, generator = LowDose(0.05, pixel_mm=PIXEL_MM), torch.Generator().manual_seed(0)
    noise = [dose.noise(np.clip(plane, -1024, 3071), generator) for plane in np.moveaxis(truth, 2, 0)]
    noisy = np.where(truth < -1500, truth, truth + np.stack(noise, 2)).astype(np.float32)
    scan = Volume(noisy, np.diag([PIXEL_MM, PIXEL_MM, 3.0, 1.0]))
    return truth, noisy, medldm.denoise(scan, modality="ct").voxels, sure


@pytest.mark.slow
def test_tissue_loses_noise_and_keeps_its_hounsfield_units(restored):
    _, noisy, clean, sure = restored
    for name in ("fat", "liver", "contrast", "lung", "water"):
        assert abs(clean[sure[name]].mean() - noisy[sure[name]].mean()) < 1, name
    for name in ("liver", "water"):
        assert clean[sure[name]].std() < 0.75 * noisy[sure[name]].std(), name


def test_bone_metal_and_padding_are_unharmed(restored):
    truth, noisy, clean, sure = restored
    assert np.array_equal(clean[sure["padding"]], truth[sure["padding"]])
    for name in ("bone", "metal"):
        assert abs(clean[sure[name]].mean() - noisy[sure[name]].mean()) < 2, name
        assert np.abs(clean[sure[name]] - truth[sure[name]]).max() < 80, name


def test_what_the_card_does_not_cover_is_refused(tmp_path):
    known = json.loads((ZOO / "ct-2d.json").read_text())
    (tmp_path / "ct.json").write_text(json.dumps(known | {"verbs": ["denoise"]}))
    shutil.copy(ZOO / known["weights"], tmp_path)
    truth, _ = cylinder(64)
    mask = np.zeros(truth.shape, np.uint8)
    mask[30:34, 30:34, 1] = 1
    grain = np.random.default_rng(0).normal(0, 5, truth.shape)
    volume = Volume((truth + grain).astype(np.float32), np.eye(4))
    with pytest.raises(ModelError, match="inpaint"):
        medldm.inpaint(volume, mask, modality="ct", model=str(tmp_path / "ct.json"))
