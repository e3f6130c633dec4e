"""The rows beyond the core: what is lost, what was put in, what CT adds."""

import itertools
import math

import numpy as np
import phantoms
import pytest
import torch

from medldm.benchmark import lesions, optional_baselines
from medldm.benchmark.baselines import CLASSICS, given_level, level_of, methods
from medldm.benchmark.ledger import FIELDS, append_score, read_scores
from medldm.benchmark.memory import PeakMemory
from medldm.benchmark.protocol import trials
from medldm.benchmark.rod import drawn_object, object_scores
from medldm.benchmark.rows import all_rows, chosen_rows, groups
from medldm.benchmark.run import DRAWN, run
from medldm.benchmark.scans import scans
from medldm.benchmark.scoring import Backbone, scored_places, scores_of
from medldm.benchmark.sets import TRUTH, extractors, load_torchscript, set_distances, torchscript_distance
from medldm.cli import main
from medldm.degradations.missing_slices import missing_slices
from medldm.errors import ModelError, UsageError
from medldm.zoo import card

ROWS = {row.name: row for row in all_rows()}
MR = [row for row in all_rows() if row.modality == "mr" and not row.core]


@pytest.fixture
def scan(tmp_path):
    (tmp_path / "data").mkdir()
    path = phantoms.save(tmp_path / "data" / "p1_T1w.nii.gz", phantoms.brain((64, 66, 60)), dtype=np.int16)
    return {"path": str(path), "file": path.name, "subject": "p1", "modality": "MR T1w", "source": "drawn"}


@pytest.fixture
def ct_scan(tmp_path):
    volume = phantoms.ct((64, 64, 6))
    path = phantoms.save(tmp_path / "c1_CT.nii.gz", volume.voxels, volume.affine, dtype=np.int16)
    return {"path": str(path), "file": path.name, "subject": "c1", "modality": "CT", "source": "drawn"}


def trial_of(name, scan):
    (trial,) = trials(ROWS[name], scan)
    return trial


@pytest.mark.parametrize("row", MR, ids=lambda row: row.name)
def test_every_other_row_damages_the_same_way_each_time_and_can_be_scored(row, scan):
    once, again = trial_of(row.name, scan), trial_of(row.name, scan)
    assert np.array_equal(once.measured.voxels, again.measured.voxels)
    scores = scores_of(once, CLASSICS["nothing"](once), Backbone())
    assert math.isfinite(scores["psnr"])
    assert set(scores) <= set(FIELDS)


def test_names_are_unique_and_groups_name_rows():
    names = [row.name for row in all_rows()]
    assert len(names) == len(set(names))
    assert [row.name for row in chosen_rows(None, quick=False)] == groups()["core"]
    assert [row.name for row in chosen_rows(("lesions", "noise-3", "lesions"), quick=False)] == [
        *groups()["lesions"], "noise-3",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="lesion-"):
        chosen_rows(("lesion-",), quick=False)


def test_which_slices_are_lost():
    draw = torch.Generator().manual_seed(0)
    assert missing_slices("every 2 kept", 6, draw) == [1, 3, 5]
    assert missing_slices("edge of 3", 60, draw) == [0, 1, 2]
    random = missing_slices("random 30 %", 60, draw)
    assert len(random) == len(set(random)) == 18
    assert 0 not in random
    assert 59 not in random
    gaps = missing_slices("gap of 5", 60, draw)
    assert len(gaps) % 5 == 0
    assert all(b - a in (1, 8) for a, b in itertools.pairwise(gaps))


def test_the_lost_edge_shows_anatomy(scan):
    trial = trial_of("edge-of-3", scan)
    assert trial.scored[:, :, 0].sum() > 50
    assert not trial.scored[:, :, 3:].any()
    assert scores_of(trial, CLASSICS["linear"](trial), Backbone())["untouched"] == 1


def test_a_mismatched_profile_is_the_same_measurement_with_a_wrong_profile(scan):
    right, wrong = trial_of("thick-4mm-rect", scan), trial_of("thick-4mm-rect-mismatch", scan)
    assert np.array_equal(right.measured.voxels, wrong.measured.voxels)
    assert (right.facts["slice_profile"], wrong.facts["slice_profile"]) == ("rect", "gaussian")
    gaussian = trial_of("thick-4mm", scan)
    assert not np.allclose(right.measured.voxels, gaussian.measured.voxels, atol=1e-3)


def test_a_gap_between_slices_is_given_in_millimetres(scan):
    trial = trial_of("thick-3mm-gap-1mm", scan)
    assert trial.facts["slice_thickness"] == 3.0
    assert trial.degradation.thickness == pytest.approx(3.0, rel=0.05)
    assert trial.measured.spacing[2] == pytest.approx(4.0, rel=0.05)


# Lesions


def test_lesions_lie_apart_inside_and_have_their_contrast(scan):
    trial = trial_of("lesions-noise-7", scan)
    assert len(trial.lesions) >= 8
    assert {lesion.contrast for lesion in trial.lesions} == {lesions.CONTRAST, -lesions.CONTRAST}
    added = trial.reference - trial.healthy
    assert np.abs(added[~trial.inside]).max() == 0
    for lesion in trial.lesions:
        assert added[lesion.centre] == pytest.approx(lesion.contrast, abs=1e-5)
    assert np.abs(added).max() < lesions.CONTRAST + 1e-5  # none lies on another


def test_what_keeps_half_of_each_lesion_recovers_half_of_its_contrast(scan):
    trial = trial_of("lesions-noise-7", scan)
    half = trial.healthy + (trial.reference - trial.healthy) * np.float32(0.4)
    for guess, share in ((trial.reference, 1.0), (half, 0.4), (trial.healthy, 0.0)):
        scores = scores_of(trial, guess, Backbone())
        assert scores["lesion_8"] == pytest.approx(share, abs=1e-3)
        assert scores["lesion_3"] == pytest.approx(share, abs=1e-3)
        assert scores["lesions_lost"] == (share < lesions.LOST)
        assert scores["lesions_false"] == 0


def test_a_blob_that_nobody_put_there_is_a_false_lesion():
    error, where = np.zeros((30, 30, 30), np.float32), np.ones((30, 30, 30), bool)
    error[5:8, 5:8, 5:8], error[20:22, 20:22, 20:22], error[15, 15, 15] = 0.15, -0.15, 1.0
    assert lesions.false_blobs(error, where, (1.0, 1.0, 1.0)) == 2  # one voxel is smaller than any lesion
    assert lesions.false_blobs(error, where, (0.5, 0.5, 0.5)) == 0
    assert lesions.false_blobs(error / 2, where, (1.0, 1.0, 1.0)) == 0


def test_a_lesion_wholly_inside_a_gap_counts_apart():
    clean, inside = np.full((40, 40, 40), 0.5, np.float32), np.ones((40, 40, 40), bool)
    lesion = lesions.Lesion((20, 20, 20), 4.0, 0.2)
    sick = clean + 0.2 * lesions.weight(lesion, clean.shape, (1, 1, 1))
    lost = np.zeros(clean.shape, bool)
    lost[:, :, 17:24] = True
    for gone, field, other in ((lost, "lesion_hidden", "lesion_4"), (None, "lesion_4", "lesion_hidden")):
        scores = lesions.lesion_scores(clean, sick, clean, [lesion], (1, 1, 1), inside, gone)
        assert scores[field] == pytest.approx(0, abs=1e-6)
        assert math.isnan(scores[other])


# CT


def test_ct_rows_have_noise_in_hounsfield_units_and_their_own_scores(ct_scan):
    trial = trial_of("ct-dose-4", ct_scan)
    blind = trial_of("ct-dose-4-blind", ct_scan)
    assert np.array_equal(trial.measured.voxels, blind.measured.voxels)
    assert blind.facts["noise"] is None
    stored = trial.stored()
    assert stored.stored.modality == "ct"
    assert np.median(stored.voxels[trial.inside]) == pytest.approx(40, abs=15)
    error = (trial.measured.voxels - trial.reference)[trial.inside] * 2000
    assert given_level(trial) == pytest.approx(error.std(), rel=0.01)
    assert level_of(trial) == pytest.approx(error.std() / 2000, rel=0.01)
    scores = scores_of(trial, trial.measured.voxels, Backbone())
    assert scores["mae_hu"] == pytest.approx(np.abs(error).mean(), rel=1e-3)
    assert math.isfinite(scores["psnr_soft"])


def test_a_tenth_of_the_dose_is_noisier_than_a_quarter(ct_scan):
    assert given_level(trial_of("ct-dose-10", ct_scan)) > 1.3 * given_level(trial_of("ct-dose-4", ct_scan))


def test_coarse_ct_planes_keep_air_below_zero(ct_scan):
    trial = trial_of("ct-plane-x2", ct_scan)
    assert trial.measured.shape[:2] == (32, 32)
    for name in ("linear", "cubic"):
        assert CLASSICS[name](trial).min() < 0  # the padding of -2000 HU stays


def test_blur_widens_the_edge_of_the_object_and_quiets_its_water():
    from scipy.ndimage import gaussian_filter

    truth = drawn_object()
    noisy = truth + np.random.default_rng(0).normal(0, 20, truth.shape).astype(np.float32)
    same, blurred = (object_scores(image, truth, noisy) for image in (noisy, gaussian_filter(noisy, (1.5, 1.5, 0))))
    assert same["nps_frequency"] == same["noise_left"] == 1
    assert same["edge_ratio"] == pytest.approx(1, abs=0.35)
    assert blurred["edge_ratio"] > 1.8
    assert blurred["noise_left"] < 0.4
    assert blurred["nps_frequency"] < 0.7
    assert abs(blurred["water_bias"]) < 1


def test_mri_models_leave_ct_alone_and_the_object_needs_no_scan(tiny_model, ct_scan, monkeypatch):
    from medldm.benchmark import baselines
    from medldm.degradations import low_dose

    assert baselines.model(card(str(tiny_model)), str(tiny_model)).restore(trial_of("ct-dose-4", ct_scan)) is None
    monkeypatch.setattr(low_dose, "VIEWS", 24)  # the whole sinogram takes half a minute
    (trial,) = trials(ROWS["ct-object-dose-4"], DRAWN["ct"])
    assert math.isfinite(scores_of(trial, trial.measured.voxels, Backbone())["nps_frequency"])


def test_the_drawn_head_has_no_noise_of_its_own():
    """And noise put on it is all that is wrong."""
    (trial,) = trials(ROWS["drawn-noise-7"], DRAWN["mr"])
    assert trial.reference.shape == (160, 192, 48)
    wrong = (np.asarray(trial.measured.voxels) - trial.reference)[trial.inside & (trial.reference > 0.5)]
    assert wrong.std() == pytest.approx(0.07, abs=0.003)
    matter = trial.reference[(trial.reference > 0.8) & (trial.reference < 0.95)]
    assert len(np.unique(matter.round(6))) > 1000  # its texture is no constant
    assert matter.std() < 0.04


def test_ct_scans_are_found_where_there_are_some(tmp_path):
    names = ("a_CT.nii.gz", "b_T1w.nii.gz")
    for name in names:
        phantoms.save(tmp_path / name, phantoms.brain((8, 8, 8)))
    lines = ["split,file,subject,modality", f"test,{names[0]},a,CT", f"test,{names[1]},b,MR T1w"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    assert [row["file"] for row in scans(tmp_path, "test", "ct")] == [names[0]]
    assert [row["file"] for row in scans(tmp_path, "test")] == [names[1]]
    (tmp_path / "manifest.csv").unlink()
    assert scans(tmp_path, "test", "ct") == []


# Baselines and parts


def test_baselines_that_are_not_installed_are_listed_with_what_to_install(monkeypatch):
    from medldm.benchmark import baselines

    monkeypatch.setattr(baselines, "installed", lambda package: package == "dipy")
    available, absent = baselines.optional()
    assert list(available) == ["dipy-nlm"]
    assert {"eclare", "synthsr"} <= absent.keys()  # named by the protocol, run nowhere
    assert "medldm[baselines]" in absent["bm4d"]
    assert "bm4d" in methods()[1]


@pytest.mark.parametrize("name", optional_baselines.OPTIONAL)
def test_baselines_of_other_packages_gain_on_noise(name):
    pytest.importorskip(optional_baselines.NEEDS[name])
    clean = phantoms.brain((28, 28, 24)) / np.float32(1000)
    noisy = phantoms.rician(clean, 0.08).astype(np.float32)
    smooth = optional_baselines.OPTIONAL[name](noisy, 0.08, "rician")
    assert smooth.dtype == np.float32
    assert np.square(smooth - clean).mean() < 0.85 * np.square(noisy - clean).mean()


def test_the_rician_mean_of_nothing_and_of_much():
    truth, mean, spread = optional_baselines.rician_moments()
    assert mean[0] == pytest.approx(math.sqrt(math.pi / 2), rel=2e-3)  # Rayleigh
    assert spread[0] == pytest.approx(math.sqrt(2 - math.pi / 2), rel=2e-2)
    assert mean[-1] == pytest.approx(truth[-1], rel=1e-3)
    assert spread[-1] == pytest.approx(1, rel=1e-3)


@pytest.mark.slow
def test_bias_is_taken_out_where_only_noise_was(monkeypatch):
    """Stand-in for BM4D: a mean over everything, so that the mean of the magnitudes is what comes out."""
    monkeypatch.setattr(
        optional_baselines, "bm4d_plain", lambda noisy, sigma, family: np.full_like(noisy, noisy.mean())
    )
    for truth in (0.02, 0.1, 0.5):
        noisy = phantoms.rician(np.full((60, 60, 60), truth), 0.05)
        for corrected in (optional_baselines.bm4d_unbiased, optional_baselines.bm4d_stabilised):
            assert corrected(noisy, 0.05, "rician").mean() == pytest.approx(truth, abs=0.004)


@pytest.mark.slow
def test_stabilised_noise_has_one_standard_deviation(monkeypatch):
    seen = []
    monkeypatch.setattr(
        optional_baselines, "bm4d_plain", lambda noisy, sigma, family: seen.append(noisy.std()) or noisy
    )
    for truth in (0.0, 0.05, 0.1, 0.5):
        optional_baselines.bm4d_stabilised(phantoms.rician(np.full((40, 40, 40), truth), 0.05), 0.05, "rician")
    assert seen == pytest.approx([1] * 4, abs=0.12)


# What a run leaves


def test_a_ledger_with_fewer_scores_is_widened_and_its_scores_stay(tmp_path):
    path = tmp_path / "scores.csv"
    old = [name for name in FIELDS if not name.startswith(("lesion", "ms_ssim", "peak", "nps"))]
    values = {"row": "noise-3", "file": "a", "method": "m", "protocol": "2", "psnr": "31.5"}
    path.write_text(",".join(old) + "\n" + ",".join(values.get(name, "") for name in old) + "\n")
    assert read_scores(path)[0]["psnr"] == 31.5
    append_score(path, {"row": "noise-3", "file": "b", "method": "m", "psnr": 30.0, "ms_ssim": 0.9})
    scores = read_scores(path)
    assert [score["psnr"] for score in scores] == [31.5, 30.0]
    assert math.isnan(scores[0]["ms_ssim"])
    assert scores[1]["ms_ssim"] == 0.9
    assert not path.with_suffix(".old.csv").exists()


class Halves(torch.nn.Module):
    """Mean of the left and of the right half of each plane, as chances of two classes."""

    def forward(self, planes):
        half = planes.shape[-1] // 2
        means = torch.stack([planes[..., :half].mean((1, 2, 3)), planes[..., half:].mean((1, 2, 3))], 1)
        return means / means.sum(1, keepdim=True)


@pytest.mark.slow
def test_a_network_of_the_users_own_judges_sets(scan, tmp_path):
    path = tmp_path / "halves.ts"
    torch.jit.script(Halves()).save(str(path))
    options = {"tasks": ("thick-4mm",), "methods_wanted": ("nothing", "linear"), "progress": lambda *news: None}
    table = run(tmp_path / "data", tmp_path / "out", backbones=[path], **options).read_text()
    assert "features of halves@" in table
    assert "IS 1.0" in table
    (name,) = extractors(Backbone(), [path])
    folder = tmp_path / "out" / "features"
    distances = set_distances(folder, name, "thick-4mm", ["linear", TRUTH, "never"], [scan["file"]])
    assert set(distances) == {"linear", TRUTH}
    assert distances[TRUTH]["fid"] == pytest.approx(0, abs=1e-6)
    assert distances["linear"]["fid"] > 0


class Difference(torch.nn.Module):
    """Stands for LPIPS: two pictures to a distance."""

    def forward(self, one, other, per_layer: bool = False):
        return (one - other).abs().mean((1, 2, 3))


@pytest.mark.slow
def test_a_network_that_compares_judges_pairs_from_the_command_line(scan, tmp_path, capsys):
    path, out = tmp_path / "apart.ts", tmp_path / "out"
    torch.jit.script(Difference()).save(str(path))
    arguments = ["--tasks", "thick-4mm", "--methods", "nothing,linear", "--backbones", str(path), "-q"]
    assert main(["benchmark", str(tmp_path / "data"), "--out", str(out), *arguments]) == 0
    assert "Planes compared in pairs by apart, pairs@" in (out / "table.md").read_text()
    (name,) = extractors(Backbone(), [path])
    distances = set_distances(out / "features", name, "thick-4mm", ["nothing", "linear", TRUTH], [scan["file"]])
    assert distances[TRUTH] == {"distance": 0}
    # The distance is the mean absolute error in LPIPS's range, twice as wide as ours.
    (trial,) = trials(ROWS["thick-4mm"], scan)
    shown = np.where(trial.scored, CLASSICS["linear"](trial), trial.reference)
    error = np.abs(np.clip(shown, 0, 1) - np.clip(trial.reference, 0, 1))[:, scored_places(trial)].mean()
    assert distances["linear"]["distance"] == pytest.approx(2 * error, rel=1e-4)
    assert main(["benchmark", str(tmp_path / "data"), "--backbones", str(tmp_path / "none.ts"), "-q"]) == 4


def test_what_is_no_network_is_refused_with_a_message(tmp_path):
    (tmp_path / "text.ts").write_text("song")
    with pytest.raises(ModelError, match="not a TorchScript"):
        load_torchscript(tmp_path / "text.ts")


def test_a_comparing_network_sees_planes_between_minus_one_and_one():
    planes = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    compare = lambda one, other: (one - other).abs().mean((1, 2, 3))  # noqa: E731
    assert torchscript_distance(compare, planes, 1 - planes) == 2
    assert torchscript_distance(compare, planes, planes) == 0


@pytest.mark.slow
def test_memory_counts_from_what_was_there_before():
    with PeakMemory() as peak:
        held = np.ones(400 * 1024**2 // 8)  # so much that what the process gives back meanwhile cannot hide it
    assert held.sum() > 0
    assert 200 < peak.megabytes < 600
    with PeakMemory() as nothing:
        pass
    assert nothing.megabytes < 20
