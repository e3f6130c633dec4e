"""A region drawn anew: from its surroundings, from another scan, or by a generator; the rest stays bit for bit."""

import nibabel as nib
import numpy as np
import phantoms
import pytest
import toy_generator

import medldm
from medldm.cli import main
from medldm.errors import GeometryError, UsageError
from medldm.tasks.edit import seam, seamless

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head():
    """A head with a bright lesion, the same without it, and a mask around it."""
    plain = phantoms.phantom()
    ball = (((np.indices(plain.shape).T - (24, 28, 20)) ** 2).sum(-1) < 16).T
    mask = (((np.indices(plain.shape).T - (24, 28, 20)) ** 2).sum(-1) < 36).T
    ill = plain.with_voxels(np.where(ball, 1.3 * plain.voxels.max(), plain.voxels).astype(np.float32))
    return plain, ill, ball, mask


def test_a_lesion_is_removed_and_nothing_outside_changes(head):
    plain, ill, ball, mask = head
    edited = medldm.edit(ill, mask, strength=1.0)
    assert np.array_equal(edited.voxels[~mask], ill.voxels[~mask])
    wrong_before, wrong_after = (np.abs(one.voxels - plain.voxels)[ball].mean() for one in (ill, edited))
    assert wrong_after < 0.55 * wrong_before
    facts = edited.history[-1].facts
    assert facts["drawn_by"] == "fill"
    assert facts["invented_voxels"] == int(mask.sum())
    assert facts["seam"] < 1.05 * seam(plain.voxels.astype(np.float32), mask)  # tissue borders lie there anyway


def test_strength_says_how_much_is_forgotten(head):
    _, ill, ball, mask = head
    changes = [np.abs(medldm.edit(ill, mask, strength=s).voxels - ill.voxels)[ball].mean() for s in (0.0, 0.4, 1.0)]
    assert changes[0] == 0
    assert changes[1] == pytest.approx(0.4 * changes[2], rel=0.02)


def test_a_lesion_is_put_in_like_that_of_another_scan(head, tmp_path):
    plain, ill, ball, mask = head
    other = phantoms.save(tmp_path / "other.nii.gz", 3 * ill.voxels, ill.affine)  # another gain
    edited = medldm.edit(plain, mask, like=str(other), strength=1.0)
    assert edited.voxels[ball].mean() > 1.15 * plain.voxels[ball].mean()
    assert np.array_equal(edited.voxels[~mask], plain.voxels[~mask])
    assert edited.history[-1].facts["drawn_by"] == "scan"
    assert not edited.history[-1].facts["registered"]  # both lie on one grid


def test_another_grid_is_registered_first(head, tmp_path):
    plain, ill, ball, mask = head
    moved = np.eye(4)
    moved[:3, 3] = (5, -4, 3)
    other = phantoms.save(tmp_path / "other.nii.gz", ill.voxels, moved @ ill.affine)
    edited = medldm.edit(plain, mask, like=str(other), strength=1.0)
    assert edited.history[-1].facts["registered"]
    assert edited.voxels[ball].mean() > 1.1 * plain.voxels[ball].mean()


def test_a_generator_draws_where_it_knows_what_the_scan_shows(tmp_path_factory):
    card = toy_generator.train_toy(tmp_path_factory.mktemp("edit"))
    scan = medldm.io.from_nibabel(nib.Nifti1Image(toy_generator.organ(1).astype(np.float32), np.eye(4)))
    mask = np.zeros(scan.shape, bool)
    mask[12:20, 12:20, 12:20] = True
    edited = medldm.edit(scan, mask, "hippocampus", model=str(card), strength=0.7, steps=4)
    again = medldm.edit(scan, mask, "hippocampus", model=str(card), strength=0.7, steps=4)
    other = medldm.edit(scan, mask, "hippocampus", model=str(card), strength=0.7, steps=4, seed=1)
    assert np.array_equal(edited.voxels[~mask], scan.voxels[~mask])
    assert edited.history[-1].facts["drawn_by"] == "toy-generator"
    assert np.array_equal(edited.voxels, again.voxels)
    assert np.abs(edited.voxels - other.voxels)[mask].max() > 0
    with pytest.raises(UsageError, match="does not look like what toy-generator draws"):
        medldm.edit(phantoms.phantom(), np.eye(48, 56)[..., None].repeat(40, 2) > 0, model=str(card))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": "T1w brain"}, "words cannot be followed"),
        ({"prompt": "T1w", "like": "x.nii"}, "Name one"),
        ({"strength": 1.5}, "--strength 1.5 makes no sense"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(head, options, sentence):
    _, ill, _, mask = head
    with pytest.raises(UsageError, match=sentence):
        medldm.edit(ill, mask, **options)


def test_a_mask_of_another_grid_and_ct_for_mr_are_refused(head, tmp_path, capsys):
    _, ill, _, mask = head
    with pytest.raises(GeometryError, match="The mask has"):
        medldm.edit(ill, mask[1:])
    ct = phantoms.ct()
    other = phantoms.save(tmp_path / "ct.nii.gz", ct.voxels, ct.affine, dtype=np.int16)
    with pytest.raises(UsageError, match="is CT"):
        medldm.edit(ill, mask, like=str(other))


def test_the_command_line_edits_a_file(head, tmp_path, capsys):
    _, ill, _, mask = head
    scan = phantoms.save(tmp_path / "scan.nii.gz", ill.voxels, ill.affine, dtype=np.int16)
    region = phantoms.save(tmp_path / "mask.nii.gz", mask.astype(np.uint8), ill.affine, dtype=np.uint8)
    out = tmp_path / "edited.nii.gz"
    assert main(["edit", str(scan), str(out), "--mask", str(region), "--strength", "1", "--no-progress"]) == 0
    before, after = (np.asarray(nib.load(path).dataobj) for path in (scan, out))
    assert np.array_equal(before[~mask], after[~mask])
    assert (before[mask] != after[mask]).any()


def test_a_step_at_the_rim_is_carried_into_the_region_and_a_seam_is_seen():
    smooth = np.indices((24, 24, 24)).sum(0).astype(np.float32)
    region = np.zeros((24, 24, 24), bool)
    region[8:16, 8:16, 8:16] = True
    shifted = smooth + 40
    pasted = np.where(region, shifted, smooth)
    assert seam(pasted, region) > 10
    mended = np.where(region, seamless(shifted, smooth, region), smooth)
    assert seam(mended, region) < 1.5
    assert np.abs(mended - smooth).max() < 4


def test_only_what_was_filled_wholly_has_a_standard_deviation(head, tmp_path):
    plain, ill, _, mask = head
    other = phantoms.save(tmp_path / "other.nii.gz", ill.voxels, ill.affine)
    assert medldm.edit(ill, mask, strength=1.0).std is not None
    for options in ({"strength": 0.5}, {"strength": 1.0, "like": str(other)}):
        edited = medldm.edit(plain, mask, **options)
        assert edited.std is None
        assert edited.half_width is None
        assert "no estimate of what was there" in edited.history[-1].facts["no_spread"]


def test_voxels_that_were_never_measured_stay_so_outside_the_mask(head):
    _, ill, _, mask = head
    voxels = np.array(ill.voxels)
    voxels[0] = np.nan
    edited = medldm.edit(ill.with_voxels(voxels), mask, strength=1.0)
    assert np.isnan(edited.voxels[0]).all()
    assert np.isfinite(edited.voxels[mask]).all()
    assert np.isfinite(edited.history[-1].facts["seam"])
