"""Which reader napari takes for a file that is dropped on it, and when it asks."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import phantoms
import phantoms_dicom
import pytest
from napari import settings
from napari.components import ViewerModel
from napari.errors import MultipleReaderError
from napari.plugins._npe2 import get_readers
from napari.plugins.utils import get_preferred_reader
from napari_medldm.default_reader import open_scans_with_medldm, patterns


@pytest.fixture(autouse=True)
def manifest(npe2pm):
    """Only the readers of napari and of medldm, as a user without other plugins has them."""
    from npe2 import PluginManifest

    for package, file in (("napari_medldm", "napari.yaml"), ("napari_builtins", "builtins.yaml")):
        npe2pm.register(PluginManifest.from_file(Path(find_spec(package).origin).parent / file))
    return npe2pm


@pytest.fixture(autouse=True)
def preferences(monkeypatch):
    """Settings as they are after the installation, kept in memory."""
    fresh = settings.NapariSettings(config_path=None)
    monkeypatch.setattr(settings, "_SETTINGS", fresh)
    monkeypatch.setattr("napari.utils.notifications.show_info", lambda message: None)
    return fresh.plugins


@pytest.fixture
def study(tmp_path):
    """A folder of DICOM, and a NIfTI file beside it."""
    phantoms_dicom.write_series(tmp_path / "series", np.ones((12, 10, 6), np.int16) * np.arange(6, dtype=np.int16))
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((12, 10, 6)), np.eye(4), dtype=np.int16)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "IM0001",
        "IM-0001-0001-0001",
        "I7",
        "DICOM",
        "1.2.840.113619.2.5.17",
        "mri.7",
        "000123.IMA",
        "a.mgz",
        "study.zip",
    ],
)
def test_names_that_only_medldm_knows_open_without_asking(name):
    assert list(get_readers(name)) == ["medldm"]


@pytest.mark.parametrize("name", ["photo.png", "cells.tif", "table.csv", "film.mp4", "volume.h5", "script.py"])
def test_what_is_no_scan_is_left_to_others_so_that_napari_does_not_ask(name):
    assert "medldm" not in get_readers(name)


def test_napari_asks_about_what_its_own_reader_claims_until_it_is_told_once(study, preferences):
    viewer = ViewerModel()
    for path in (study / "scan.nii.gz", study / "series"):
        with pytest.raises(MultipleReaderError):
            viewer.open(str(path), plugin=None)
    assert preferences.extension2reader == {}  # opening changes no settings
    open_scans_with_medldm()
    for path in (study / "scan.nii.gz", study / "series"):
        (layer,) = viewer.open(str(path), plugin=None)
        assert layer.metadata["medldm"]


def test_a_more_specific_preference_stays_and_counts_first(study, preferences):
    preferences.extension2reader = {f"{study}/series/": "napari", "*.tif": "napari"}
    open_scans_with_medldm()
    assert get_preferred_reader(study / "series") == "napari"
    assert get_preferred_reader("photo.tif") == "napari"
    assert get_preferred_reader(study) == "medldm"


def test_every_name_that_both_readers_claim_is_in_the_setting(manifest):
    both = [
        f"a{end}"
        for end in (".nii", ".nii.gz", ".dcm", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgh", ".hdr", ".img", ".img.gz")
        if len(get_readers(f"a{end}")) == 2
    ]
    assert both
    assert all(f"*{name[1:]}" in patterns() for name in both)


def test_the_menu_offers_it(manifest):
    assert [item.command for item in manifest.iter_menu("napari/file/io_utilities")] == [
        "medldm.open_scans_with_medldm"
    ]


def test_an_archive_of_a_series_is_opened(study):
    archive = shutil.make_archive(str(study / "packed"), "zip", study / "series")
    (layer,) = ViewerModel().open(archive, plugin=None)
    assert layer.data.shape[0] == 6
