"""What widgets say, without a widget."""

import phantoms
import pytest
from napari_medldm import text


def test_seconds_are_told_as_people_say_them():
    assert text.duration(0.2) == "1 s"
    assert text.duration(125) == "2 min 5 s"


def test_the_intent_names_numbers():
    scan = phantoms.phantom((48, 56, 10), spacing=(1, 1, 5))
    assert "5.00 to 1.00 mm (10 to 50)" in text.intent("super-resolve", scan, {})
    assert "0.05" in text.intent("denoise", scan, {"noise": 0.05})
    assert "2 of 10 slices (3-4)" in text.intent("fill-slices", scan, {"missing": "3,4"})


def test_a_card_tells_licence_and_range():
    description = text.describe("auto")
    assert "CC BY 4.0" in description
    assert "voxels 0.4 to 7 mm" in description


def test_a_scan_outside_of_what_a_model_has_seen_is_named():
    assert "9.00 mm" in text.unfit("auto", "mr", phantoms.phantom((8, 8, 8), spacing=(1, 1, 9)))
    assert text.unfit("auto", "mr", phantoms.phantom((8, 8, 8))) == ""


def test_the_copied_command_is_one_that_the_command_line_takes():
    import shlex

    from medldm.cli import build_parser
    from medldm.cli.flags import settings_from
    from medldm.settings import SuperResolve

    options = {"spacing": (1.0, 1.0, 2.5), "slice_profile": "rect", "seed": 7}
    line = text.command_line("super-resolve", options, "/data/a scan.nii.gz")
    arguments = build_parser().parse_args(shlex.split(line)[1:])
    assert arguments.source == ["/data/a scan.nii.gz"]
    assert settings_from(arguments, SuperResolve) == SuperResolve(**options)


def test_a_copied_inpainting_names_the_file_of_its_mask():
    assert "--mask '/data/a mask.nii.gz'" in text.command_line("inpaint", {}, "scan.nii", mask="/data/a mask.nii.gz")
    code = text.python("inpaint", {}, "scan.nii", mask="mask.nii")
    assert "medldm.inpaint(scan, medldm.read('mask.nii'))" in code
    compile(code, "copied", "exec")


def test_the_copied_python_runs(tmp_path, monkeypatch, scan_file):
    import medldm

    seen = {}
    monkeypatch.setattr(medldm, "denoise", lambda scan, **options: seen.update(options) or scan, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(text.python("denoise", {"noise": 0.05, "seed": 3}, str(scan_file)))
    assert seen == {"noise": 0.05, "seed": 3}
    assert (tmp_path / "RESTORED.nii.gz").exists()


def test_each_volume_of_a_series_is_a_command_of_its_own():
    commands = text.command_line("denoise", {"seed": 3}, "bold.nii", volumes=(0, 2)).splitlines()
    assert commands == [f"medldm denoise bold.nii RESTORED-{n}.nii.gz --volume {n} --seed 3" for n in (0, 2)]
    assert "--volume 2" in text.command_line("denoise", {}, "bold.nii", volumes=(2,))
    compile(text.python("denoise", {"seed": 3}, "bold.nii", volumes=(0, 2)), "copied", "exec")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("taken for MR; say --slice-thickness 3", 'taken for MR; choose "Slice thickness" 3'),
        ("It has no flow. Say --samples 1 and --fidelity 1.", 'It has no flow. Choose "Samples" 1 and "Fidelity" 1.'),
        ("Fill it with `medldm fill-slices`, or leave it.", 'Fill it with "Fill slices", or leave it.'),
        ("noise is 7.2 % of p99.5, above 2.0 %.", "noise is 7.2 % of the brightest tissue, above 2.0 %."),
        ("Give one of your own with --model PATH.", 'Choose one of your own with "Model from a file...".'),
    ],
)
def test_messages_of_the_library_are_in_the_words_of_the_dock(message, shown):
    assert text.for_dock(message) == shown
