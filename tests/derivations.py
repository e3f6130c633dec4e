"""Restored volumes written as derived series, and what other programs say of them."""

import shutil
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medldm.data.volume import Step
from medldm.io import read, write
from medldm.settings import Settings
from medldm.tasks import TASKS, with_step

FACTS = {"model": "tiny", "sha256": "ab" * 32, "seed": 7, "steps": 4, "medldm": "0.1.0"}
# Debian's dciodvfy is older than the standard's Synthetic Data, which we declare on purpose.
UNKNOWN_TO_DCIODVFY = "0x0008,0x001c"
needs_dcm2niix = pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
needs_dciodvfy = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")


def restored(volume, invented=(), brighter=5.0):
    """A result that differs from its source everywhere, gaps filled, as a network would leave it."""
    filled = np.nan_to_num(np.asarray(volume.voxels, np.float32), nan=100.0) + np.float32(brighter)
    facts = {**FACTS, "invented_slices": list(invented)}
    return volume.with_voxels(filled, step=Step("denoise", {"noise": 0.1}, facts))


def derive(source, out, **said):
    """The only scan in a folder, restored and written; result and headers in order of slices."""
    volume = restored(read(source), **said)
    write(volume, out, form="dicom")
    images = [pydicom.dcmread(path) for path in out.iterdir()]
    return volume, sorted(images, key=lambda image: image.InstanceNumber)


def errors(folder):
    messages = [
        subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        for path in sorted(folder.iterdir())[:3]
    ]
    lines = {line for done in messages for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}
    return {line for line in lines if UNKNOWN_TO_DCIODVFY not in line}


def assert_dcm2niix_agrees(volume, folder, work):
    """dcm2niix makes of the derived series what we write as NIfTI."""
    write(volume, work / "ours.nii.gz")
    (work / "theirs").mkdir()
    command = ["dcm2niix", "-p", "n", "-o", work / "theirs", "-f", "x", folder]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = (work / "theirs").glob("*.nii")
    ours, theirs = (nib.as_closest_canonical(nib.load(file)) for file in (work / "ours.nii.gz", path))
    assert np.array_equal(ours.get_fdata(), theirs.get_fdata())
    assert np.allclose(ours.affine, theirs.affine, atol=1e-4)


def done(volume, task, voxels=None, settings=None, **facts):
    """A result of a task, its voxels one brighter when none are given."""
    voxels = np.nan_to_num(np.asarray(volume.voxels, np.float32), nan=100.0) + 1 if voxels is None else voxels
    result = volume.with_voxels(voxels, step=Step(task, settings or {}, {**FACTS, **facts}))
    return with_step(result, volume, Settings(), TASKS[task])


def written(volume, out):
    """The derived series, in order of slices."""
    write(volume, out, form="dicom")
    return sorted(map(pydicom.dcmread, out.iterdir()), key=lambda image: image.InstanceNumber)


def mapping(unit, slope=1.0, intercept=0.0):
    """A RealWorldValueMapping to a unit of UCUM."""
    item, code = pydicom.Dataset(), pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", "unit"
    item.MeasurementUnitsCodeSequence = [code]
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    return [item]
