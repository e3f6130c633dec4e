"""A picture of before and after, and a page for a batch that needs no network."""

import base64
import hashlib
import json
import re

import numpy as np
import phantoms
import pytest
from PIL import Image

from medldm.batch.summary import Row
from medldm.data.volume import Step
from medldm.report import write_page, write_preview
from medldm.report.chart import bins, histogram
from medldm.report.facts import facts_of
from medldm.report.preview import INVENTED, focus


def orange(path):
    return int((np.asarray(Image.open(path)) == INVENTED).all(-1).sum())


def test_invented_slices_are_marked_and_measured_ones_are_not(tmp_path):
    scan = phantoms.phantom((32, 36, 20))
    gaps = phantoms.with_missing_slices(scan, [8, 9])
    filled = scan.with_voxels(scan.voxels, step=Step("fill-slices", {}, {"invented_slices": [8, 9]}))
    write_preview(gaps, filled, tmp_path / "filled.png")
    write_preview(scan, scan, tmp_path / "same.png")
    assert orange(tmp_path / "filled.png") > 0
    assert orange(tmp_path / "same.png") == 0


def test_the_cut_goes_through_a_lost_slice(phantom):
    assert focus(phantom, (8,))[2] == (8 + 0.5) / 40
    assert focus(phantom, ()) == (0.5, 0.5, 0.5)


def test_thick_and_thin_share_one_window_and_one_size(tmp_path):
    thick = phantoms.phantom((32, 36, 8), (1.0, 1.0, 4.0))
    thin = phantoms.phantom((32, 36, 32))
    write_preview(thick, thin, tmp_path / "p.png", reference=thin)
    assert Image.open(tmp_path / "p.png").height > 900


def test_a_single_slice_is_not_a_picture_of_seventy_thousand_pixels(tmp_path):
    plane = phantoms.one_slice((128, 128))
    write_preview(plane, plane, tmp_path / "p.png")
    assert max(Image.open(tmp_path / "p.png").size) < 3000


def test_a_page_holds_its_pictures_and_reaches_for_nothing(tmp_path, phantom):
    write_preview(phantom, phantom, tmp_path / "a_preview.png")
    page = write_page([Row("a", "done", 1.0, "", str(tmp_path / "a.nii.gz"))], tmp_path).read_text()
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"https?://|url\(|@import|src=\"(?!data:)|href", page)
    assert "default-src 'none'" in page


def test_names_and_messages_are_text_and_never_markup(tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'\n\x1b[2J\udcff"
    rows = [Row(evil, "failed", 0.0, "</td><script>alert(1)</script>")]
    page = write_page(rows, tmp_path).read_text(encoding="utf-8")
    assert page.count("<script>") == 1  # its own
    assert "<img src=x" not in page
    assert r"\n\x1b[2J\udcff" in page


def test_the_page_allows_exactly_its_own_script(tmp_path):
    page = write_page([Row("a", "done")], tmp_path).read_text()
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in page


def test_what_stands_out_is_flagged(tmp_path):
    rows = []
    for number in range(12):
        facts = {
            "task": "denoise",
            "modality": "mr",
            "noise_level": 0.3 if number == 7 else 0.03 + number / 1000,
            "result_sha256": "0",
        }
        facts |= {"consistency_residual": 0.02, "clipped_voxels": 5 if number == 3 else 0, "invented_slices": []}
        (tmp_path / f"{number}_medldm.json").write_text(json.dumps(facts))
        rows.append(Row(str(number), "done", 2.0, "", str(tmp_path / f"{number}.nii.gz")))
    flagged = {case.case: case.flags for case in facts_of(rows, tmp_path, width=100) if case.flags}
    assert flagged == {"3": ("5 voxels clipped",), "7": ("noise far above the others",)}


def test_a_note_is_no_reason_to_look_and_a_failure_is_one(tmp_path):
    notes = {"plain": ["plain is taken for MR, since its values are not HU"], "odd": ["spacing of 9 mm", "a note"]}
    for name, said in notes.items():
        facts = {"result_sha256": "0", "notes": said, "outside_of_card": ["spacing"] if name == "odd" else []}
        (tmp_path / f"{name}_medldm.json").write_text(json.dumps(facts))
    rows = [Row(name, "done", 2.0, "", str(tmp_path / f"{name}.nii.gz")) for name in notes]
    rows += [Row("bad", "failed", 0.1, "damaged"), Row("gap", "refused", 0.1, "a gap"), Row("mask", "skipped")]
    cases = {case.case: (case.to_look_at, case.flags) for case in facts_of(rows, tmp_path, width=100)}
    assert cases["plain"] == (False, ())
    assert cases["odd"] == (True, ("outside the model: spacing",))
    assert [cases[name][0] for name in ("bad", "gap", "mask")] == [True, True, False]
    page = write_page(rows, tmp_path).read_text()
    assert "<b>3</b><span>to look at</span>" in page
    assert page.count('data-flags="0"') == 2
    assert "taken for MR" in page  # folded up, not lost


def test_a_picture_that_would_burst_is_left_out(tmp_path, phantom, monkeypatch):
    write_preview(phantom, phantom, tmp_path / "a_preview.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    page = write_page([Row("a", "done", 1.0, "", str(tmp_path / "a.nii.gz"))], tmp_path).read_text()
    assert "data:image/jpeg;base64," not in page


def test_a_picture_that_is_none_spoils_no_page(tmp_path):
    (tmp_path / "a_preview.png").write_bytes(b"\x89PNG")
    page = write_page([Row("a", "done", 1.0, "", str(tmp_path / "a.nii.gz"))], tmp_path).read_text()
    assert "data:image" not in page
    assert ">a<" in page


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [1.0, 2.0, 3.0], [-3.5, 1e6], [1e-9, 2e-9]])
def test_every_value_lies_in_a_bin(values):
    edges = bins(values)
    assert edges == sorted(set(edges))
    assert edges[0] <= min(values) <= max(values) <= edges[-1] * (1 + 1e-9)
    counts = [int(count) for count in re.findall(r": (\d+) case", histogram(values))]
    assert sum(counts) == len(values)


def test_the_uncertainty_is_drawn_below_the_result(tmp_path):
    scan = phantoms.phantom((32, 36, 20))
    doubt = np.linspace(0, 5, 20, dtype=np.float32) * np.ones(scan.shape, np.float32)
    for name, fields in (("plain", {}), ("std", {"std": doubt}), ("interval", {"std": doubt, "half_width": 2 * doubt})):
        write_preview(scan, scan.with_voxels(scan.voxels, **fields), tmp_path / f"{name}.png")
    plain, std, interval = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("plain", "std", "interval"))
    assert std.shape[0] > plain.shape[0]
    assert interval.shape == std.shape
    row = std[plain.shape[0] - 26 : -30]
    coloured = (row.max(-1).astype(int) - row.min(-1)) > 60
    assert coloured.mean() > 0.1
