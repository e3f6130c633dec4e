"""A picture of before and after, and a page for a batch that needs no network."""

import numpy as np
import phantoms
from PIL import Image

from medldm.batch.summary import Row
from medldm.report import write_page, write_preview
from medldm.report.preview import INVENTED, focus
from medldm.volume import Step


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


def test_a_page_holds_its_pictures_and_no_markup_of_others(tmp_path):
    (tmp_path / "a_preview.png").write_bytes(b"\x89PNG")
    rows = [Row("a", "done", 1.0, "", str(tmp_path / "a.nii.gz")), Row("<b>", "failed", 0.0, "<script>")]
    page = write_page(rows, tmp_path).read_text()
    assert "data:image/png;base64," in page
    assert "<script>" not in page
    assert "http" not in page


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
