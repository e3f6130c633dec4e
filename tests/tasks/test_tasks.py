"""The verbs on phantoms: what they promise holds whatever the network says."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.data.intensity import mri_scaling
from medldm.data.resample import field_of_view_affine
from medldm.data.volume import Stored, Volume
from medldm.degradations import Observation, ThickSlices
from medldm.errors import Cancelled, GeometryError, InputError, ModelError, NotRestorable, UsageError
from medldm.inference.conditioning import centre_plane, pick_orientations
from medldm.inference.device import fitted_pixels
from medldm.inference.networks import load_networks
from medldm.inference.pipeline import relative_residual, silent
from medldm.inference.tiling import Tiling, estimate, infer, stride_of
from medldm.samples import sample_path
from medldm.settings import Denoise, Settings
from medldm.tasks import TASKS
from medldm.tasks.inputs import mask_on
from medldm.zoo import card


@pytest.fixture
def model(tiny_model):
    return {"model": str(tiny_model)}


def thick(volume, spacing):
    """Slices of a volume, its affine over the same field of view."""
    degradation = ThickSlices(volume.shape[2], 2, spacing)
    voxels = degradation.degrade(torch.from_numpy(np.array(volume.voxels, dtype=np.float32))).numpy()
    return volume.with_voxels(voxels, field_of_view_affine(volume.affine, volume.shape, voxels.shape))


def test_filling_leaves_measured_slices_bit_exact_and_says_which_it_invented(phantom, model):
    whole = phantom.with_voxels(
        phantom.voxels.astype(np.int16), stored=replace(phantom.stored, dtype=np.dtype(np.int16))
    )
    damaged = phantoms.with_missing_slices(whole, [17, 18])
    filled = medldm.fill_slices(damaged, **model)
    rest = [k for k in range(whole.shape[2]) if k not in (17, 18)]
    assert np.array_equal(filled.voxels[..., rest], whole.voxels[..., rest])
    assert filled.voxels.dtype == np.int16
    assert filled.voxels[..., 17].any()
    assert filled.history[-1].facts["invented_slices"] == [17, 18]


def test_slices_are_counted_as_the_file_counts_them(phantom, model, tmp_path):
    """A file whose third axis runs downwards: slice 3 of the file is slice 3, whatever happens inside."""
    path = phantoms.save(tmp_path / "down.nii.gz", phantom.voxels, np.diag([1, 1, -1, 1.0]), dtype=np.int16)
    filled = medldm.fill_slices(medldm.read(path), missing="3,5-6", **model)
    medldm.write(filled, tmp_path / "out.nii.gz")
    import nibabel

    before, after = (np.asarray(nibabel.load(p).dataobj) for p in (path, tmp_path / "out.nii.gz"))
    changed = [k for k in range(before.shape[2]) if not np.array_equal(before[..., k], after[..., k])]
    assert set(changed) <= {3, 5, 6}
    assert filled.history[-1].facts["invented_slices"] == [3, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("made", ["gaussian", "rect"])
@pytest.mark.parametrize("profile", ["gaussian", "rect"])
def test_a_scan_says_which_slice_profile_it_was_made_with(made, profile):
    """A wrong one would be deconvolved into ringing; nobody knows the profile of a file."""
    clean = medldm.read(sample_path("mr"))
    block = torch.from_numpy(mri_scaling(clean.voxels).apply(clean.voxels)[30:126, 40:136, 30:126].copy())
    thick = ThickSlices(96, 2, 4.0, profile=made)
    measured = Volume(thick.degrade(block).numpy(), np.diag([1.0, 1, 4, 1]), stored=Stored(modality="mr"))
    thin = medldm.super_resolve(measured, 1.0, slice_profile=profile, noise=0.0, model="brain-mri-2d")
    facts = thin.history[-1].facts
    assert facts["slice_profile"] == (made if profile == "gaussian" else "rect")  # a rectangle is somebody's word
    assert any(f"{profile} profile" in note for note in facts["notes"]) == (made != profile)
    scaled = torch.from_numpy(np.array(thin.voxels))
    used = ThickSlices(96, 2, 4.0, profile=facts["slice_profile"])
    assert relative_residual(used, scaled, torch.from_numpy(np.array(measured.voxels))) < 0.01


@pytest.mark.parametrize("spacing", [2.0, 3.0, 4.0, 2.5])
def test_super_resolved_measured_again_gives_the_scan_back(phantom, model, spacing):
    measured = thick(phantom, spacing)
    thin = medldm.super_resolve(measured, 1.0, **model)
    assert thin.shape == phantom.shape
    used = thin.history[-1].facts["slice_profile"]  # an untrained network may take one for the other
    again = ThickSlices(thin.shape[2], 2, thin.shape[2] / measured.shape[2], profile=used)
    difference = again.degrade(torch.from_numpy(np.array(thin.voxels))).numpy() - measured.voxels
    assert np.sqrt((difference**2).mean() / (measured.voxels**2).mean()) < 0.01


def test_the_field_of_view_stays(oblique_phantom, model):
    thin = medldm.super_resolve(oblique_phantom, 1.0, **model)
    for corner in ((-0.5, -0.5, -0.5), (1, 1, 1)):
        old = np.array(corner) if corner[0] < 0 else np.array(oblique_phantom.shape) - 0.5
        new = np.array(corner) if corner[0] < 0 else np.array(thin.shape) - 0.5
        world = [volume.affine @ [*at, 1] for volume, at in ((oblique_phantom, old), (thin, new))]
        assert np.allclose(*world, atol=1e-6)


def test_inpainting_touches_nothing_outside(phantom, model):
    mask = np.zeros(phantom.shape, dtype=bool)
    mask[20:28, 20:28, 15:22] = True
    painted = medldm.inpaint(phantom, mask, **model)
    assert np.array_equal(painted.voxels[~mask], phantom.voxels[~mask])
    assert painted.history[-1].facts["invented_voxels"] == mask.sum()


def test_a_mask_from_another_grid_is_refused(phantom, model):
    shifted = phantom.with_voxels((phantom.voxels > 0).astype(np.uint8), np.diag([1, 1, 1.2, 1]))
    with pytest.raises(GeometryError, match="grid"):
        medldm.inpaint(phantom, shifted, **model)


def test_a_denoised_voxel_stays_within_the_noise(phantom, model):
    sigma = 0.05 * 900
    noisy = phantom.with_voxels(phantoms.rician(phantom.voxels, sigma).astype(np.float32))
    clean = medldm.denoise(noisy, noise=0.05, **model)
    facts = clean.history[-1].facts
    assert clean.voxels.shape == noisy.voxels.shape
    assert np.abs(clean.voxels - noisy.voxels).max() < 6 * sigma
    assert facts["noise_level"] == pytest.approx(0.05)
    assert facts["noise_estimated"] is False


def test_the_noise_level_is_found_when_not_given(phantom, model):
    noisy = phantom.with_voxels(phantoms.rician(phantom.voxels, 40).astype(np.float32))
    facts = medldm.denoise(noisy, **model).history[-1].facts
    assert facts["noise_estimated"] is True
    assert facts["noise_level"] == pytest.approx(40 / 900, rel=0.25)


def test_what_was_not_measured_stays_unmeasured(phantom, model):
    voxels = np.array(phantom.voxels)
    voxels[10:14, 10:14, 10:14] = np.nan
    clean = medldm.denoise(phantom.with_voxels(voxels), noise=0.05, **model)
    assert np.array_equal(np.isnan(clean.voxels), np.isnan(voxels))


@pytest.mark.slow
def test_several_samples_give_a_spread_and_equal_seeds_equal_images(phantom, model):
    damaged = phantoms.with_missing_slices(phantom, [10, 11, 12])
    once, again = (medldm.fill_slices(damaged, samples=3, seed=5, **model) for _ in range(2))
    assert np.array_equal(once.voxels, again.voxels)
    assert once.std is not None
    assert float(once.std[..., 11].max()) > 0
    assert float(once.std[..., 20].max()) == 0
    one = medldm.fill_slices(damaged, **model)  # its deviation is that of the spread head
    assert one.std is not None
    assert float(one.std[..., 11].max()) > 0
    assert float(one.std[..., 20].max()) == 0
    assert not np.array_equal(one.std, once.std)


def test_nothing_to_do_gives_the_scan_itself(phantom, model):
    assert medldm.super_resolve(phantom, 3.0, **model) is phantom
    assert medldm.fill_slices(phantom, **model) is phantom
    assert medldm.inpaint(phantom, np.zeros(phantom.shape), **model) is phantom
    assert medldm.restore(phantom, **model) is phantom


def test_restore_makes_a_plan_and_keeps_to_it(phantom, model):
    slices = thick(phantom, 4.0)
    noisy = slices.with_voxels(phantoms.rician(slices.voxels, 40).astype(np.float32))
    damaged = phantoms.with_missing_slices(noisy, [4])
    restored = medldm.restore(damaged, **model)
    assert restored.shape == phantom.shape
    assert [step["verb"] for step in restored.history[-1].facts["plan"]] == ["fill-slices", "super-resolve", "denoise"]
    assert restored.history[-1].task == "restore"
    assert len(restored.history) == 1


def test_single_slices_can_be_denoised_and_nothing_across(model):
    single = phantoms.one_slice()
    assert medldm.denoise(single, noise=0.03, **model).shape == single.shape
    with pytest.raises(GeometryError, match="slice"):
        medldm.super_resolve(single, 1.0, **model)
    with pytest.raises(GeometryError, match="slice"):
        medldm.fill_slices(single, **model)


def test_a_slab_thinner_than_the_network_comes_back_whole(model):
    slab = phantoms.phantom((40, 44, 5))
    assert medldm.denoise(slab, noise=0.03, **model).shape == slab.shape
    assert medldm.fill_slices(slab, missing=[2], **model).shape == slab.shape


@pytest.mark.parametrize("voxels", [np.zeros((8, 8, 8)), np.full((8, 8, 8), np.nan), np.full((8, 8, 8), 3.0)])
def test_empty_volumes_are_refused(voxels, model):
    with pytest.raises(InputError, match="nothing to restore"):
        medldm.denoise(medldm.Volume(voxels.astype(np.float32), np.eye(4)), **model)


def test_label_maps_are_refused(phantom, model):
    labels = phantom.with_voxels((phantom.voxels // 250).astype(np.int16))
    with pytest.raises(NotRestorable, match="label"):
        medldm.denoise(labels, **model)


def test_ct_given_to_an_mri_model_is_refused(model):
    with pytest.raises(ModelError, match="CT"):
        medldm.denoise(phantoms.ct(), **model)


def test_progress_counts_to_its_end_and_can_stop_the_run(phantom, model):
    heard = []
    medldm.denoise(phantom, noise=0.03, progress=lambda *news: heard.append(news), **model)
    assert heard[-1][0] == heard[-1][1]

    def stop(done, total, what):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        medldm.denoise(phantom, noise=0.03, progress=stop, **model)


def test_arrays_and_nibabel_images_are_scans_too(phantom, model):
    import nibabel

    array = np.array(phantom.voxels)
    image = nibabel.Nifti1Image(array, phantom.affine)
    by_array = medldm.denoise(array, 0.03, affine=phantom.affine, **model)
    assert np.array_equal(by_array.voxels, medldm.denoise(image, 0.03, **model).voxels)
    with pytest.raises(UsageError, match="affine"):
        medldm.denoise(array, 0.03, **model)


def test_tiles_join_without_a_seam(tiny_model):
    """A slab restored in tiles and whole: the same but for what reaches across the overlap of 24 voxels."""
    networks = load_networks(card(str(tiny_model)))
    inputs = torch.rand(2, networks.config.measured_channels, 160, 192, generator=torch.Generator().manual_seed(0))
    whole, tiled = (infer(inputs, Tiling(tile=tile), networks.estimate_with_spread) for tile in (256, 96))
    difference = (whole - tiled).abs()
    change = (whole[:, :1] - centre_plane(inputs, networks.config)).abs().mean()
    assert float(difference.mean() / change) < 0.05
    seam = difference[..., 70:74].mean()
    assert float(seam) < 3 * float(difference.mean()) + 1e-6


@pytest.mark.parametrize("edge", range(32, 385, 16))
def test_tiles_lie_on_the_grid_of_the_latents(edge):
    """By a network that answers with the place of each voxel in its tile: where tiles begin, a multiple of 16."""
    stride = stride_of(edge)
    assert stride % 16 == 0
    assert edge / 2 <= stride <= 0.75 * edge
    seen = []

    def predict(tile):
        seen.extend(tile[:, 0, 0, 0].tolist())
        return tile[:, :1]

    places = torch.arange(1024.0).view(1, 1, 1024, 1).expand(1, 1, 1024, 16)
    torch.testing.assert_close(infer(places, Tiling(tile=edge), predict), places)
    begins = sorted({int(place) for place in seen})
    assert all(begin % 16 == 0 for begin in begins)
    assert max(np.diff(begins)) == stride


def test_chunks_of_planes_give_what_the_whole_stack_gives(tiny_model):
    networks = load_networks(card(str(tiny_model)))
    y = torch.rand(32, 32, 48, generator=torch.Generator().manual_seed(0))
    seen = Observation(y, torch.ones_like(y))
    orientations = pick_orientations((), (), y.shape, (1, 1, 1))
    sigma = torch.full((1, 1, 1), 0.05)

    def restored(tiling):
        return estimate(networks, seen, sigma, orientations, tiling, silent)

    whole = restored(Tiling())
    assert torch.allclose(whole, restored(Tiling.whole()), atol=1e-5)
    assert torch.allclose(whole, restored(Tiling(pixels=32 * 32 * 5)), atol=1e-5)


@pytest.mark.parametrize(("free_gb", "megapixels"), [(1, 0.2), (16, 2), (80, 8)])
def test_a_graphics_card_takes_as_many_planes_as_a_quarter_of_its_memory_holds(free_gb, megapixels, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 1e9), int(96e9)))
    assert fitted_pixels("cuda:0") == pytest.approx(megapixels * 1e6)
    assert fitted_pixels("cpu") == 200_000


def test_planes_are_chosen_where_the_damage_shows():
    assert len(pick_orientations((), (), (64, 64, 64), (1, 1, 1))) == 3
    assert pick_orientations((), (), (64, 64, 20), (0.7, 0.7, 5))[0].order == (0, 1, 2)
    assert {orientation.order[0] for orientation in pick_orientations((2,), (), (64, 64, 64), (1, 1, 1))} == {2}
    assert pick_orientations((), (0, 1), (64, 64, 64), (1, 1, 1))[0].order == (0, 1, 2)


def test_every_task_has_settings_and_a_function():
    assert all(issubclass(task.settings, Settings) and callable(task.run) for task in TASKS.values())
    assert TASKS["denoise"].settings is Denoise


@pytest.mark.parametrize("verb", [medldm.super_resolve, medldm.fill_slices, medldm.restore, medldm.denoise])
@pytest.mark.parametrize("nothing", [0.0, np.nan])
def test_a_scan_of_nothing_is_refused_by_every_task(verb, nothing):
    """Also where nothing would be to be done: it must not pass as restored."""
    with pytest.raises(InputError, match=r"zero|NaN|number"):
        verb(np.full((20, 20, 20), nothing, np.float32), affine=np.eye(4))


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"), [("int16", 0.0123, 0.0), ("uint16", 1.0, -1000.0), ("int16", 1.0, 100.5)]
)
def test_measured_slices_of_a_scaled_file_come_out_as_they_were_stored(dtype, slope, inter, phantom, model, tmp_path):
    """The file's integers are not its values; they must survive the way there and back."""
    raw = np.clip(phantom.voxels * 2 + 1200, 0, 30000).astype(dtype)
    path = phantoms.save(tmp_path / "scaled.nii", raw, scl_slope=slope, scl_inter=inter)
    filled = medldm.fill_slices(medldm.read(path), [7], modality="mr", **model)
    medldm.write(filled, tmp_path / "filled.nii.gz")
    again = nib.load(tmp_path / "filled.nii.gz").dataobj.get_unscaled()
    rest = [k for k in range(raw.shape[2]) if k != 7]
    assert np.array_equal(again[..., rest], raw[..., rest])
    assert filled.history[-1].facts["measured_slices_bit_exact"] is True


@pytest.mark.parametrize("verb", ["fill_slices", "inpaint"])
def test_what_is_replaced_does_not_leak_into_what_replaces_it(verb, phantom, model):
    """A damaged slice may hold anything: brighter than the scan, or as negative as air in CT."""
    results = []
    for content in (0.0, 3e4, -5e3):
        voxels = np.array(phantom.voxels, dtype=np.float32)
        mask = np.zeros(voxels.shape, dtype=bool)
        mask[..., 9] = True
        voxels[mask] = content
        scan = phantom.with_voxels(voxels)
        done = medldm.fill_slices(scan, [9], **model) if verb == "fill_slices" else medldm.inpaint(scan, mask, **model)
        results.append(np.array(done.voxels)[mask])
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_scans_that_were_shifted_below_zero_are_filled_below_zero(phantom, model):
    shifted = (phantom.voxels - phantom.voxels.mean()) / phantom.voxels.std()
    filled = medldm.fill_slices(shifted.astype(np.float32), [9], affine=phantom.affine, modality="mr", **model)
    assert (filled.voxels[..., 9] < 0).any()


@pytest.mark.parametrize("verb", [medldm.denoise, medldm.restore])
def test_double_precision_is_single_inside(verb, phantom, model):
    noisy = phantoms.rician(phantom.voxels, 0.05 * phantom.voxels.max()).astype(np.float64)
    assert verb(noisy, affine=phantom.affine, **model).voxels.dtype == np.float32
    assert verb(nib.Nifti1Image(noisy, phantom.affine), **model).voxels.dtype == np.float32


def test_a_flat_array_is_one_slice(model):
    flat = np.squeeze(phantoms.one_slice().voxels)
    assert medldm.denoise(flat, 0.05, affine=np.eye(4), **model).shape == (*flat.shape, 1)
    with pytest.raises(UsageError, match="real numbers"):
        medldm.denoise(flat.astype(complex), affine=np.eye(4), **model)
    with pytest.raises(GeometryError, match="affine"):
        medldm.denoise(flat, 0.05, affine=np.zeros((4, 4)), **model)


def test_what_was_never_seen_stays_so_on_a_finer_grid(phantom, model):
    measured = thick(phantom, 4.0)
    voxels = np.array(measured.voxels)
    voxels[10:14, 10:14, 3] = np.nan
    thin = medldm.super_resolve(measured.with_voxels(voxels), 1.0, **model)
    unseen = np.zeros(thin.shape, dtype=bool)
    unseen[10:14, 10:14, 12:16] = True
    assert np.array_equal(np.isnan(thin.voxels), unseen)


def test_one_sagittal_slice_is_not_made_into_several(model):
    scan = np.random.default_rng(0).random((1, 32, 24)).astype(np.float32)
    with pytest.raises(GeometryError, match="one voxel"):
        medldm.super_resolve(scan, 1.0, affine=np.diag([5.0, 1, 1, 1]), **model)


def test_filling_and_denoising_says_no_longer_that_nothing_else_changed(phantom, model):
    noisy = phantom.with_voxels(phantoms.rician(phantom.voxels, 0.06 * phantom.voxels.max()).astype(np.float32))
    damaged = phantoms.with_missing_slices(noisy, [17])
    facts = medldm.restore(damaged, **model).history[-1].facts
    assert {step["verb"] for step in facts["plan"]} == {"fill-slices", "denoise"}
    assert "measured_slices_bit_exact" not in facts
    assert facts["noise_estimated"]


def test_doubts_about_the_header_are_said_aloud(model, tmp_path, caplog):
    path = phantoms.save(tmp_path / "unknown.nii", phantoms.brain((24, 24, 24)), xyzt_units=0)
    caplog.set_level("WARNING", "medldm")  # a test of --quiet may have run before
    medldm.denoise(medldm.read(path), 0.05, **model)
    assert "millimetres are assumed" in caplog.text


def test_a_hole_in_a_slice_beside_a_gap_is_no_zero(phantom, model):
    """What was never measured there must not darken what fills the gap."""
    voxels = np.array(phantom.voxels)
    voxels[34:37, 27:30, 17] = np.nan
    whole, holed = (
        medldm.fill_slices(phantom.with_voxels(filled), [18], **model) for filled in (phantom.voxels, voxels)
    )
    difference = np.abs(holed.voxels[..., 18] - whole.voxels[..., 18])
    assert difference.max() < 60  # of 900; taken for zero it moved the gap by 500
    assert np.array_equal(np.isnan(holed.voxels), np.isnan(voxels))


def rotated(affine, degrees):
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation @ affine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a + np.array([[0, 0, 0, 3], [0, 0, 0, 0], [0, 0, 0, -1.5], [0, 0, 0, 0]]),
            "3 mm right, 1.5 mm down",
        ),
        (lambda a: a @ np.diag([1, 1, 2, 1]), "1 x 1 x 2 mm, those of the scan 1 x 1 x 1 mm"),
        (lambda a: rotated(a, 10), "turned by 10 degrees"),
        (lambda a: rotated(a, 0.4), "turned by 0.4 degrees"),
        (lambda a: rotated(a, 0.05), r"corners lie up to 0.06\d* mm"),
    ],
)
def test_a_mask_beside_the_scan_says_in_what_it_differs(change, message, phantom):
    mask = Volume(np.ones(phantom.shape, np.uint8), change(phantom.affine), name="mask", stored=Stored())
    with pytest.raises(GeometryError, match=message) as refusal:
        mask_on(phantom, mask)
    assert "48" not in str(refusal.value)  # the shapes are equal, and no news


def test_a_mask_whose_header_is_rounded_lies_on_the_scan(phantom):
    affine = phantom.affine + np.array([[1e-5, -1e-5, 0, 0.01], [1e-5, 0, 0, -0.01], [0] * 4, [0] * 4])
    mask = Volume(np.ones(phantom.shape, np.uint8), affine, name="mask", stored=Stored())
    assert mask_on(phantom, mask).all()


def test_a_mask_of_another_size_is_reported_by_sizes(phantom):
    mask = Volume(np.ones((48, 56, 39), np.uint8), phantom.affine, name="mask", stored=Stored())
    with pytest.raises(GeometryError, match="48 x 56 x 39 voxels, the scan 48 x 56 x 40"):
        mask_on(phantom, mask)
    with pytest.raises(GeometryError, match="40 x 56 x 48 voxels, phantom has 48 x 56 x 40"):
        mask_on(phantom, np.ones((40, 56, 48)))
