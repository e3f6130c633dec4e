"""Fixtures only; what they draw lives in phantoms.py."""

import numpy as np
import phantoms
import pytest


@pytest.fixture
def phantom():
    """A brain-like volume, 1 mm, upright."""
    return phantoms.phantom()


@pytest.fixture
def oblique_phantom():
    """A brain-like volume with thick slices on an oblique grid."""
    return phantoms.oblique_phantom()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Path of the card of a tiny untrained chain; its decoder starts from "change nothing"."""
    return phantoms.tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def scan_file(tmp_path, phantom):
    """The phantom as int16 NIfTI."""
    return phantoms.save(tmp_path / "scan.nii.gz", phantom.voxels, phantom.affine, dtype=np.int16)
