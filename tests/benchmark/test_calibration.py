"""Calibration on errors whose law is known."""

import json

import numpy as np
import phantoms
import pytest

from medldm.benchmark import calibration
from medldm.benchmark.calibration import Errors, amend, conformal_q, fit_floor
from medldm.inference.uncertainty import Interval
from medldm.zoo import card


def errors(subject, sigma=0.0, scale=1.0, slope=0.2, count=4000):
    """Errors with a spread of 0.02, plus 0.05 times the root of the remoteness, half the noise, a part of contrast."""
    draw = np.random.default_rng([subject, int(1000 * sigma)])
    remoteness = draw.integers(0, 5, count).astype(np.float64)
    busy = draw.exponential(0.3, count)
    spread = draw.uniform(0.5, 2, count) * 0.02
    size = np.sqrt(spread**2 + 0.05**2 * remoteness + (0.5 * sigma) ** 2 + (slope * busy) ** 2)
    wrong = scale * size * draw.standard_normal(count)
    return Errors("row", "denoise", f"s{subject}", "T1w", wrong, spread, busy, remoteness, sigma, 0.0)


def test_the_fitted_interval_finds_the_law_of_the_errors():
    interval = fit_floor([errors(1), errors(2, 0.05), errors(3, 0.1)])
    assert interval.far == pytest.approx(0.05, rel=0.15)
    assert interval.noisy == pytest.approx(0.5, rel=0.15)
    assert interval.busy == pytest.approx(0.2, rel=0.15)
    assert interval.q == pytest.approx(1.645, rel=0.1)


def test_new_subjects_are_covered_and_a_constant_is_wider():
    interval = fit_floor([errors(1, slope=0.5), errors(2, 0.05, slope=0.5)])
    interval = interval._replace(
        q=conformal_q([errors(n, 0.05, scale=1.2, slope=0.5) for n in range(10, 16)], interval)
    )
    new = [errors(n, 0.05, scale=1.2, slope=0.5) for n in range(20, 26)]
    covered = [float((np.abs(block.error) <= block.half_width(interval)).mean()) for block in new]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)
    widths = [block.half_width(interval).mean() for block in new]
    constant = [np.quantile(np.abs(block.error), share) for block, share in zip(new, covered, strict=True)]
    assert np.mean(widths) < 0.95 * np.mean(constant)


def test_every_subject_counts_the_same_however_many_blocks_it_has():
    interval = Interval(0.02, 0.0, 0.0, 0.0, 1.0)
    quiet, loud = errors(1, scale=0.1), errors(2, scale=10)
    once, often = conformal_q([quiet, loud], interval), conformal_q([quiet] * 9 + [loud], interval)
    assert once == pytest.approx(often, rel=0.01)


@pytest.mark.slow
def test_a_card_is_calibrated_and_its_weights_stay(tmp_path, monkeypatch):
    path = phantoms.tiny_model(tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    lines = ["split,file,subject,modality,source"]
    for number, split in enumerate(("train", "train", "val", "val")):
        noisy = phantoms.rician(phantoms.phantom((56 + number, 62, 54)).voxels, 10, number)
        phantoms.save(data / f"scan{number}.nii.gz", noisy, np.eye(4), dtype=np.int16)
        lines.append(f"{split},scan{number}.nii.gz,s{number},MR T1w,here")
    (data / "manifest.csv").write_text("\n".join(lines))
    monkeypatch.setattr(calibration, "BLOCK", (32, 32, 16))
    before = path.with_suffix(".safetensors").read_bytes()
    rows = [row for row in calibration.ROWS if row.name in ("noise-3", "every-4th-kept")]
    calibration.calibrate(str(path), data, blocks=2, rows=rows)
    model_card = card(str(path))
    assert path.with_suffix(".safetensors").read_bytes() == before
    assert set(model_card.calibration["verbs"]) == {"denoise", "fill-slices"}
    assert model_card.calibration["subjects"] == ["s2", "s3"]
    assert {"intensity", "texture", "anatomy", "residual"} == set(model_card.ood)


def test_amending_a_card_keeps_the_rest(tmp_path):
    path = phantoms.tiny_model(tmp_path)
    before = json.loads(path.read_text())
    amend(card(str(path)), {"ood": {"residual": {}}})
    after = json.loads(path.read_text())
    assert after.pop("ood") == {"residual": {}}
    assert after == before
