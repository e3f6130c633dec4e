"""Results of the shipped model sets on the shipped samples, to compare before and after a change of the code.

usage: python tests/golden.py      writes tests/golden.npz anew: only when results are meant to change
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

import medldm

FILE = Path(__file__).with_name("golden.npz")
SAMPLES = Path(medldm.__file__).parent / "samples"
FLOW = Path(medldm.__file__).parents[1] / "docs" / "training" / "flow" / "brain-mri-2d-flow.json"
CROPS = {"mr_t1w": (slice(60, 124), slice(60, 124), slice(60, 92)), "ct_chest": (slice(40, 104), slice(40, 104))}
MR_SETS = ("brain-mri-2d", "brain-mri-2d-fast", "brain-mri-3d")
KEPT = 2048  # voxels of a result that the file holds


def crop(name):
    """A piece of a shipped sample, as a Volume."""
    scan = medldm.read(SAMPLES / f"{name}.nii.gz")
    where = tuple(slice(s.start, min(s.stop, n)) for s, n in zip(CROPS[name], scan.voxels.shape, strict=False))
    return scan.with_voxels(np.ascontiguousarray(scan.voxels[where]), scan.affine)


def results():
    """Name and voxels of every result."""
    plain = {"precision": "fp32", "device": "cpu"}
    head, chest = crop("mr_t1w"), crop("ct_chest")
    thick = medldm.super_resolve(head, spacing=(1, 1, 0.5), model="brain-mri-2d-fast", **plain)
    yield "in-between", thick.voxels
    mask = np.zeros(head.voxels.shape, bool)
    mask[24:36, 24:36, 12:18] = True
    coarse = head.with_voxels(np.ascontiguousarray(head.voxels[:, :, ::3]), head.affine @ np.diag([1, 1, 3, 1]))
    for model in MR_SETS:
        options = {**plain, "model": model}
        yield f"{model} denoise", medldm.denoise(head, noise=0.05, **options).voxels
        yield f"{model} super-resolve", medldm.super_resolve(coarse, **options).voxels
        yield f"{model} fill-slices", medldm.fill_slices(head, [7, 8, 20], **options).voxels
        yield f"{model} inpaint", medldm.inpaint(head, mask, **options).voxels
    drawn = medldm.denoise(head, noise=0.05, samples=2, fidelity=0.3, seed=3, model=str(FLOW), **plain)
    yield "samples", drawn.voxels
    yield "samples, spread", drawn.std
    yield "ct denoise", medldm.denoise(chest, noise=40, model="ct-2d", **plain).voxels
    yield "ct fill-slices", medldm.fill_slices(chest, [5, 6], model="ct-2d", **plain).voxels
    yield "restore", medldm.restore(coarse, model="brain-mri-2d-fast", **plain).voxels


def digest(voxels):
    """SHA-256 of voxels and their shape."""
    return hashlib.sha256(repr(voxels.shape).encode() + np.ascontiguousarray(voxels).tobytes()).hexdigest()


def processor():
    """What the digests depend on beside the code."""
    cpu = Path("/proc/cpuinfo")
    kind = (
        {line for line in cpu.read_text().splitlines() if line.startswith(("model", "cache size"))}
        if cpu.is_file()
        else ()
    )
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return " ".join(
        [
            torch.__version__,
            f"{torch.get_num_threads()} threads",
            *sorted(kind),
            *sorted(name for name, able in abilities.items() if able is True),
        ]
    )


def picked(voxels):
    """Some voxels, evenly spread."""
    flat = voxels.reshape(-1).astype(np.float64)
    return flat[np.linspace(0, flat.size - 1, KEPT).astype(int)]


if __name__ == "__main__":
    kept = {"processor": np.array(processor())}
    for name, voxels in results():
        kept[name] = picked(voxels).astype(np.float32)
        kept[f"{name}: sha256"] = np.array(digest(voxels))
        print(name, kept[f"{name}: sha256"], voxels.shape, voxels.dtype)
    np.savez_compressed(FILE, **kept)
