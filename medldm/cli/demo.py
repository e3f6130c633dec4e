"""The demo: damage the shipped scan as a hurried clinic would, restore it, and show both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medldm.batch import Options, Result, Run, Watch, one_case
from medldm.data.volume import Volume, Voxels
from medldm.errors import OutputError
from medldm.io import read, write
from medldm.io.discovery import find_cases
from medldm.modality import MR
from medldm.samples import sample_path
from medldm.settings import Restore

SPACING_MM = 4.0
NOISE = 0.03
LOST = (12, 21)  # thick slices


def demonstrate(out: Path, *, overwrite: bool, watch: Watch) -> int:
    """Write input, result, record and picture of the demo into a folder.

    Parameters
    ----------
    out : folder
    overwrite : replace an earlier demo
    watch : called with messages and progress

    Raises
    ------
    OutputError
        The folder holds something else.
    """
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise OutputError(f"{out} is not empty. Say --overwrite, or name another folder.")
    reference = read(sample_path(MR.name))
    source, restored = out / "input.nii.gz", out / "restored.nii.gz"
    write(clinical(reference), source)
    watch.say(
        f"input: the shipped scan with {SPACING_MM:g} mm slices, {100 * NOISE:g} % noise and {len(LOST)} slices "
        f"lost: {source}"
    )
    run = Run(verb="restore", settings=Restore(), options=Options(overwrite=True), watch=watch)
    one_case(run, find_cases(source)[0], restored)
    result = Result(restored)
    from medldm.report import write_preview

    picture = result.preview_path
    before, after = read(source), read(restored)
    write_preview(before, replace(after, history=()), picture, reference=reference, record=result.record)
    plain, ours = compare(reference, before, after)
    print(f"input    {source}\nresult   {restored}\nrecord   {result.record_path}\npreview  {picture}")
    print(f"PSNR against the scan before it was damaged: {plain:.2f} dB interpolated, {ours:.2f} dB restored")
    watch.say("One scan is an example, not evidence; the evidence is `medldm benchmark`. Research use only.")
    return 0


def clinical(reference: Volume) -> Volume:
    """The reference as thick, noisy slices, two of them lost (all zero), 16 bit."""
    import torch

    from medldm.data.intensity import mri_scaling
    from medldm.data.resample import field_of_view_affine
    from medldm.degradations import Rician, ThickSlices

    axis = reference.slice_axis
    scaling = mri_scaling(reference.voxels)
    clean = torch.from_numpy(scaling.apply(reference.voxels))
    thick = ThickSlices(clean.shape[axis], axis, SPACING_MM / reference.spacing[axis])
    measured = Rician(NOISE).degrade(thick.degrade(clean), torch.Generator().manual_seed(0))
    measured.index_fill_(axis, torch.tensor(LOST), 0.0)
    voxels = np.rint(scaling.invert(measured.numpy())).astype(np.int16)
    return replace(
        reference,
        voxels=voxels,
        affine=field_of_view_affine(reference.affine, reference.shape, voxels.shape),
        name="input",
    )


def compare(reference: Volume, source: Volume, result: Volume) -> tuple[float, float]:
    """PSNR in the foreground against the scan before it was damaged, of linear interpolation and of the result, dB."""
    from medldm.data.intensity import foreground_mask, mri_scaling
    from medldm.data.resample import resample_to
    from medldm.metrics import psnr

    scaling = mri_scaling(reference.voxels)
    inside = foreground_mask(reference.voxels)
    clean = scaling.apply(reference.voxels)

    def on_grid(volume: Volume) -> Voxels:
        same = volume.shape == reference.shape
        return volume.voxels if same else resample_to(volume, reference.affine, reference.shape, "linear")

    bridge = source.with_voxels(bridged(source.voxels, source.slice_axis))
    interpolated, restored = on_grid(bridge), on_grid(result)
    # Half a slice at either end lies beyond the outermost slice centres, where interpolation has no answer.
    inside = inside & np.isfinite(interpolated)

    before, after = (psnr(scaling.apply(volume), clean, inside) for volume in (interpolated, restored))
    return before, after


def bridged(voxels: Voxels, axis: int) -> Voxels:
    """Slices of zeros replaced by the line between their neighbours.

    Parameters
    ----------
    voxels : (X, Y, Z)
    axis : that slices are stacked along
    """
    slices = np.moveaxis(voxels, axis, 0).astype(np.float32)
    full = np.flatnonzero(slices.any(axis=(1, 2)))
    for place in set(range(full[0], full[-1])) - set(full.tolist()):
        below, above = full[full < place][-1], full[full > place][0]
        share = (place - below) / (above - below)
        slices[place] = (1 - share) * slices[below] + share * slices[above]
    return np.moveaxis(slices, 0, axis)
