"""The benchmark on phantoms, with methods that need no shipped weights: fair, seeded, resumable."""

import importlib
import math
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.benchmark import run
from medldm.benchmark.baselines import CLASSICS, Method, given_level
from medldm.benchmark.ledger import append_score, read_scores
from medldm.benchmark.protocol import trials
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.scans import few, in_turn, scans, spacing_of
from medldm.benchmark.scoring import Backbone, consistency, scores_of
from medldm.benchmark.tables import against, difference, holm, markdown, signed_rank
from medldm.errors import InputError, MedldmError, UsageError

CORE = chosen_rows(None, quick=False)
ROWS = {row.name: row for row in CORE}
running = importlib.import_module("medldm.benchmark.run")


@pytest.fixture
def scan(tmp_path):
    (tmp_path / "data").mkdir()
    path = phantoms.save(tmp_path / "data" / "p1_T1w.nii.gz", phantoms.brain((64, 66, 60)), dtype=np.int16)
    return {"path": str(path), "file": path.name, "subject": "p1", "modality": "MR T1w", "source": "drawn"}


def trial_of(name, scan):
    (trial,) = trials(ROWS[name], scan)
    return trial


# The protocol


@pytest.mark.parametrize("row", CORE, ids=lambda row: row.name)
def test_every_row_damages_the_same_way_each_time(row, scan):
    once, again = trial_of(row.name, scan), trial_of(row.name, scan)
    assert np.array_equal(once.measured.voxels, again.measured.voxels)
    assert once.reference.shape == once.scored.shape == once.detailed.shape
    assert once.scored.any()
    assert not (once.scored & ~once.inside).any()


@pytest.mark.parametrize("row", CORE, ids=lambda row: row.name)
def test_the_truth_measured_again_is_consistent(row, scan):
    trial = trial_of(row.name, scan)
    residual = consistency(trial, trial.reference)
    assert residual == 0 or row.level or residual < 1e-5
    assert not row.level or 0.01 < residual < 0.3  # with noise the truth lies about sigma away


def test_the_same_noise_whether_or_not_its_level_is_given(scan):
    given, blind = trial_of("noise-3", scan), trial_of("noise-3-blind", scan)
    assert np.array_equal(given.measured.voxels, blind.measured.voxels)
    assert given.facts["noise"] == 0.03
    assert blind.facts["noise"] is None


def test_the_level_given_to_a_model_counts_from_the_measured_foreground(scan):
    from medldm.data.intensity import mri_scaling

    trial = trial_of("noise-7", scan)
    assert given_level(trial) * mri_scaling(trial.measured.voxels).unit == pytest.approx(0.07)


def test_gaps_are_scored_alone_and_their_detail_along_the_slice_axis(scan):
    trial = trial_of("every-4th-kept", scan)
    scored = np.flatnonzero(trial.scored.any(axis=(0, 1)))
    assert not (scored % 4 == 0).any()
    assert trial.detail_axes == (2,)
    assert trial.measured.shape[0] == 48  # the slab leaves the slice axis whole
    assert trial.measured.shape[2] == 60


def test_scans_acquired_thick_are_no_reference_for_thin_slices(tmp_path):
    path = phantoms.save(tmp_path / "t.nii.gz", phantoms.brain((40, 40, 16)), np.diag([1, 1, 4, 1.0]), dtype=np.int16)
    scan = {"path": str(path), "file": path.name, "subject": "t", "modality": "MR", "source": ""}
    assert not list(trials(ROWS["thick-4mm"], scan))
    assert list(trials(ROWS["noise-3"], scan))


def test_a_scan_too_short_for_a_gap_makes_no_trial(tmp_path):
    path = phantoms.save(tmp_path / "s.nii.gz", phantoms.brain((50, 40, 20)), dtype=np.int16)
    scan = {"path": str(path), "file": path.name, "subject": "s", "modality": "MR", "source": ""}
    assert not list(trials(ROWS["gap-of-3"], scan))


# Which scans


@pytest.fixture
def split_data(tmp_path):
    lines = ["split,file,subject,modality,source"]
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        for number in (1, 2):
            name = f"{split}{number}_T1w.nii.gz"
            phantoms.save(tmp_path / split / name, phantoms.brain((16, 16, 16)), dtype=np.int16)
            lines.append(f"{split},{name},{split}{number},MR T1w,drawn")
    lines.append("test,test1_T1w.nii.gz,test1,MR T1w,listed twice")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_split_is_its_split_and_every_file_counts_once(split_data):
    assert [row["file"] for row in scans(split_data, "test")] == ["test1_T1w.nii.gz", "test2_T1w.nii.gz"]
    assert {row["split"] for row in scans(split_data / "val", "val")} == {"val"}


def test_naming_the_folder_of_one_split_never_scores_another(split_data):
    with pytest.raises(InputError, match="val"):
        scans(split_data / "val", "test")


def test_a_mistyped_split_is_refused_not_answered_with_everything(split_data):
    with pytest.raises(InputError, match="tset"):
        scans(split_data, "tset")


def test_scans_of_every_format_are_taken(tmp_path):
    volume = phantoms.phantom((40, 44, 36))
    for suffix in (".nhdr", ".mgz", ".nii"):
        medldm.write(volume, tmp_path / f"{suffix[1:]}_T1w{suffix}")
    rows = scans(tmp_path, "test")
    assert [row["subject"] for row in rows] == ["mgz", "nhdr", "nii"]
    for row in rows:
        assert spacing_of(Path(row["path"])) == pytest.approx(volume.spacing)
        assert trial_of("noise-3", row).reference.any()


def test_a_plain_folder_is_taken_whole(tmp_path, scan):
    assert [row["subject"] for row in scans(tmp_path / "data", "test")] == ["p1"]
    with pytest.raises(InputError, match="no NIfTI"):
        scans(tmp_path / "nowhere", "test")


def test_a_run_cut_short_has_seen_as_many_sources_and_subjects_as_it_could():
    rows = [("x", "a1", 1), ("x", "a1", 2), ("x", "a2", 3), ("y@1", "b1", 4), ("y@2", "b1", 5)]
    scans_in_turn = [{"source": source, "subject": subject, "file": str(file)} for source, subject, file in rows]
    assert [row["file"] for row in in_turn(scans_in_turn)] == ["1", "4", "3", "5", "2"]


def test_a_quick_run_takes_thin_scans_of_different_subjects(tmp_path):
    rows = []
    for subject, mm in (("a", 1.0), ("a", 1.0), ("b", 4.0), ("c", 1.0)):
        path = tmp_path / f"{subject}{len(rows)}.nii.gz"
        phantoms.save(path, phantoms.brain((8, 8, 8)), np.diag([1, 1, mm, 1.0]), dtype=np.int16)
        rows.append({"path": str(path), "subject": subject})
    assert [row["subject"] for row in few(rows, 2)] == ["a", "c"]


# The baselines


@pytest.mark.parametrize("row", CORE, ids=lambda row: row.name)
def test_classics_give_the_grid_of_the_reference_or_nothing_at_all(row, scan):
    trial = trial_of(row.name, scan)
    for name, method in CLASSICS.items():
        if name == "nlm":
            continue  # slow; tested once below
        guess = method(trial)
        assert guess is None or (guess.shape == trial.reference.shape and np.isfinite(guess).all()), name
        if guess is not None and trial.untouched is not None:
            assert scores_of(trial, guess, Backbone())["untouched"] == 1, name


@pytest.mark.slow
def test_denoisers_gain_and_interpolation_beats_doing_nothing(scan):
    psnr = lambda trial, name: scores_of(trial, CLASSICS[name](trial), Backbone())["psnr"]  # noqa: E731
    noisy = trial_of("noise-7", scan)
    assert psnr(noisy, "nlm") > psnr(noisy, "nothing") + 3
    assert psnr(noisy, "tv") > psnr(noisy, "nothing") + 3
    for name in ("thick-4mm", "every-4th-kept", "gap-of-3"):
        trial = trial_of(name, scan)
        assert max(psnr(trial, "linear"), psnr(trial, "cubic")) > psnr(trial, "nothing"), name
    coarse = trial_of("plane-x2", scan)
    assert psnr(coarse, "zero-filling") > psnr(coarse, "linear")


def test_a_changed_measured_voxel_is_noticed(scan):
    trial = trial_of("gap-of-3", scan)
    guess = CLASSICS["linear"](trial).copy()
    guess[tuple(np.argwhere(trial.untouched & trial.inside)[0])] += 1e-6
    assert scores_of(trial, guess, Backbone())["untouched"] == 0


# The run


@pytest.fixture
def stubs(monkeypatch):
    """Two methods that count how often they are asked."""
    asked = []

    def stub(name, weights=""):
        return Method(lambda trial: asked.append((trial.row.name, name)) or trial.reference + np.float32(0.1), weights)

    competing = {"one": stub("one"), "two": stub("two", "net@1")}
    monkeypatch.setattr(running, "methods", lambda names: (competing, {"three": "no weights"}))
    return competing, asked, stub


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_new_weights_only_their_own(scan, tmp_path, stubs):
    competing, asked, stub = stubs
    progress = []
    options = {"tasks": ("noise-3", "thick-4mm"), "progress": lambda *news: progress.append(news)}
    table = run(tmp_path / "data", tmp_path / "out", **options).read_text()
    assert len(asked) == 4
    assert progress[-1][:2] == (2, 2)
    assert "| noise-3 | 1 | 20.00 | 20.00 |" in table.replace("**", "")  # an error of 0.1 everywhere is 20 dB
    assert "`three`: not run (no weights)" in table
    assert (tmp_path / "out" / "figure.png").stat().st_size > 0
    run(tmp_path / "data", tmp_path / "out", **options)
    assert len(asked) == 4
    competing["two"] = stub("two", "net@2")
    table = run(tmp_path / "data", tmp_path / "out", **options).read_text()
    assert asked[4:] == [("noise-3", "two"), ("thick-4mm", "two")]
    assert "net@2" in table
    assert "net@1" not in table


@pytest.mark.slow
def test_a_run_cut_short_leaves_the_table_of_what_it_scored(tmp_path, stubs):
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        phantoms.save(tmp_path / f"data/{name}_T1w.nii.gz", phantoms.brain((48, 48, 48)))

    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "data", tmp_path / "out", tasks=("noise-3",), progress=stop)
    table = (tmp_path / "out/table.md").read_text()
    assert "Subjects: 1;" in table
    assert "noise-3" in table


@pytest.mark.slow
def test_a_torn_line_is_cut_off_and_computed_again(scan, tmp_path, stubs):
    _, asked, _ = stubs
    options = {"tasks": ("noise-3",), "progress": lambda *news: None}
    run(tmp_path / "data", tmp_path / "out", **options)
    ledger = tmp_path / "out" / "scores.csv"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-25])
    run(tmp_path / "data", tmp_path / "out", **options)
    assert len(asked) == 3
    assert len(read_scores(ledger)) == 2


@pytest.mark.slow
def test_a_failure_is_noted_leaves_the_others_alone_and_is_tried_again(scan, tmp_path, stubs):
    competing, asked, stub = stubs

    def fail(trial):
        asked.append("fail")
        raise MedldmError("no memory")

    competing["one"] = Method(fail)
    options = {"tasks": ("noise-3",), "progress": lambda *news: None}
    run(tmp_path / "data", tmp_path / "out", **options)
    assert [score["method"] for score in read_scores(tmp_path / "out" / "scores.csv")] == ["two"]
    competing["one"] = stub("one")
    run(tmp_path / "data", tmp_path / "out", **options)
    assert {score["method"] for score in read_scores(tmp_path / "out" / "scores.csv")} == {"one", "two"}
    assert asked.count("fail") == 1


def test_a_ledger_of_another_version_is_kept_beside(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("row,psnr\nnoise-3,30\n")
    append_score(path, {"row": "noise-3", "file": "a", "method": "m", "psnr": 31.0})
    assert [score["psnr"] for score in read_scores(path)] == [31.0]
    assert "noise-3,30" in path.with_suffix(".old.csv").read_text()


@pytest.mark.slow
def test_the_path_of_a_card_is_a_method(scan, tmp_path, tiny_model):
    wanted = {"tasks": ("gap-of-3",), "methods_wanted": ("linear", str(tiny_model)), "progress": lambda *news: None}
    run(tmp_path / "data", tmp_path / "out", **wanted)
    scores = {score["method"]: score for score in read_scores(tmp_path / "out" / "scores.csv")}
    assert set(scores) == {"linear", "tiny-2d", "tiny-2d-sample", "tiny-2d-mean"}
    assert all(score["untouched"] == 1 for score in scores.values())
    assert scores["tiny-2d"]["weights"].startswith("tiny-2d@")


@pytest.mark.slow
def test_the_noise_table_comes_with_the_whole_run(scan, tmp_path, stubs):
    table = run(tmp_path / "data", tmp_path / "out", quick=True, progress=lambda *news: None).read_text()
    assert "Noise level estimate" in table


def test_few_scans_come_from_as_many_sources_as_there_are(tmp_path):
    names = ("a1", "a2", "b1")
    for name in names:
        phantoms.save(tmp_path / f"{name}.nii.gz", phantoms.brain((20, 20, 20)))
    lines = (f"test,MR T1w,{name}.nii.gz,{name},site {name[0]}" for name in names)
    (tmp_path / "manifest.csv").write_text("\n".join(("split,modality,file,subject,source", *lines)))
    quick = {"tasks": ("noise-3",), "methods_wanted": ("nothing",), "progress": lambda *news: None}
    run(tmp_path, tmp_path / "out", at_most=2, **quick)
    assert [score["file"] for score in read_scores(tmp_path / "out" / "scores.csv")] == ["a1.nii.gz", "b1.nii.gz"]
    with pytest.raises(UsageError, match="needs a scan"):
        run(tmp_path, tmp_path / "none", at_most=0, **quick)
    assert not (tmp_path / "none").exists()


def test_unknown_rows_and_methods_are_refused(tmp_path):
    for wrong in ({"tasks": ("song",)}, {"methods_wanted": ("magic",), "tasks": ("noise-3",)}):
        phantoms.save(tmp_path / "x.nii.gz", phantoms.brain((16, 16, 16)))
        with pytest.raises(MedldmError, match=r"song|magic"):
            run(tmp_path, tmp_path / "out", **wrong)


# Scores and tables


def test_the_perceptual_distance_sees_the_scored_region_alone(scan):
    trial = trial_of("region-20mm", scan)
    backbone = Backbone("stub@1", lambda image, places: [np.stack([image[:, places], 1 - image[:, places]])])
    outside = np.where(trial.scored, trial.reference, 0).astype(np.float32)
    assert scores_of(trial, outside, backbone)["perceptual"] == 0
    assert scores_of(trial, CLASSICS["nothing"](trial), backbone)["perceptual"] > 0


def test_features_of_the_encoder_name_their_weights(scan, tiny_model, monkeypatch):
    import medldm.zoo
    from medldm.benchmark.scoring import encoder_backbone

    monkeypatch.setattr(medldm.zoo, "best", lambda modality: medldm.zoo.card(str(tiny_model)))
    backbone = encoder_backbone()
    assert backbone.name.startswith("tiny-2d@")
    trial = trial_of("thick-4mm", scan)
    blurred = scores_of(trial, CLASSICS["nothing"](trial), backbone)["perceptual"]
    assert blurred > scores_of(trial, trial.reference, backbone)["perceptual"] == 0


def test_an_effect_comes_with_its_interval():
    mean, low, high = difference({"a": 2.0, "b": 3.0, "c": 4.0}, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert mean == low == high == 1.0


def test_holm_corrects_for_as_many_tests_as_there_are():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_smallest_p_of_six_subjects_is_one_in_thirty_two():
    ours = {str(k): 1.0 + k for k in range(6)}
    assert signed_rank(ours, dict.fromkeys(ours, 0.0)) == pytest.approx(2 / 2**6)
    assert signed_rank(ours, ours) == 1


def score(method, subject, **values):
    numbers = dict.fromkeys(
        ("psnr", "ssim", "detail_energy", "detail_correlation", "perceptual", "consistency", "untouched", "bias_1",
         "seconds"), math.nan)  # fmt: skip
    labels = {"row": "thick-4mm", "contrast": "MR", "source": "s", "weights": "", "backbone": "b", "file": subject}
    return {**numbers, **labels, "method": method, "subject": subject, **values}


def test_sharpness_is_judged_by_its_distance_from_one():
    scores = [score("medldm-sample", "a", detail_energy=0.9), score("cubic", "a", detail_energy=1.3)]
    assert any("+0.200" in line for line in against(scores, "medldm-sample", "detail_energy"))


def test_the_better_of_linear_and_cubic_is_the_baseline_and_the_subject_is_the_unit():
    scores = [score("medldm", "a", psnr=30.0), score("medldm", "b", psnr=30.0), score("medldm", "b", psnr=32.0)]
    scores += [score("linear", s, psnr=28.0) for s in "ab"] + [score("cubic", s, psnr=29.0) for s in "ab"]
    (line,) = [line for line in against(scores, "medldm", "psnr") if line.startswith("| thick-4mm")]
    assert "| cubic | 2 | +1.50 [" in line
    table = markdown(scores, {}, "medldm benchmark")
    assert "| thick-4mm | 2 | 28.00 | 29.00 | **30.50** |" in table  # baselines first, however the ledger lists them


def test_a_baseline_that_skipped_a_subject_is_not_the_best_for_it():
    scores = [score("medldm", s, psnr=30.0) for s in "ab"] + [score("tv", "a", psnr=40.0)]
    scores += [score("nlm", s, psnr=29.0) for s in "ab"]
    assert any("| nlm | 2 |" in line for line in against(scores, "medldm", "psnr"))


def test_the_noise_of_a_scan_does_not_depend_on_its_neighbours_in_the_list(scan):
    from medldm.benchmark.noise_table import noise_errors

    alone, second = noise_errors([scan]), noise_errors([{**scan, "file": "x", "subject": "q"}, scan])
    assert alone[0.05][0] == second[0.05][1]
    assert abs(alone[0.05][0][1]) < 0.15


def test_degradations_take_tensors_of_the_trial_without_writing_into_it(scan):
    trial = trial_of("thick-3mm", scan)
    before = trial.measured.voxels.copy()
    trial.degradation.degrade(torch.from_numpy(np.array(trial.reference)))
    assert np.array_equal(before, trial.measured.voxels)
    assert not trial.measured.voxels.flags.writeable
