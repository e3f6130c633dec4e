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
    """Path of the card of a tiny untrained pipeline; its decoder starts from "change nothing"."""
    return phantoms.tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def scan_file(tmp_path, phantom):
    """The phantom as int16 NIfTI."""
    return phantoms.save(tmp_path / "scan.nii.gz", phantom.voxels, phantom.affine, dtype=np.int16)


@pytest.fixture
def stub_network(monkeypatch):
    """Every task adds one to every voxel; what is tested then needs no torch."""
    import medldm.tasks
    from medldm.data.volume import Step

    def run(task, volume, settings, *, mask=None, progress=None):
        facts = {"sha256": "0", "seed": 0, "invented_slices": [], "consistency_residual": 0.01, "seconds": 1.0}
        std = np.ones(volume.shape, np.float32) if settings.samples > 1 else None
        return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts), std=std)

    monkeypatch.setattr(medldm.tasks, "run", run)
