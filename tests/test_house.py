"""The shape that the house promises to keep."""

import ast
import configparser
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
import yaml

ROOT = Path(__file__).parents[1]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import medldm",
        "from medldm.cli import main; main(['--help'])",
        "from medldm.cli import main; main(['models'])",
        "from medldm.cli import main; main(['models', '--json'])",
    ],
)
def test_looking_around_loads_neither_torch_nor_monai(code):
    done = run(f"import sys\n{code}\nassert 'torch' not in sys.modules and 'monai' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_inspecting_a_scan_loads_no_torch(scan_file):
    done = run(f"import sys, medldm\nmedldm.inspect({str(scan_file)!r})\nassert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["denoise", "--help"], ["--version"], ["models"], ["denoise"]])
def test_help_versions_and_models_load_next_to_nothing(words):
    """What makes an answer slow is what is imported for it: NumPy alone takes longer than all the rest."""
    done = run(
        "import sys\nbefore = set(sys.modules)\n"
        f"from medldm.cli import main\nmain({words!r})\n"
        "loaded = set(sys.modules) - before\n"
        "print(sorted(name for name in loaded if '.' not in name), len(loaded), file=sys.stderr)\n"
        "third = {name for name in loaded if getattr(sys.modules[name], '__file__', None) and "
        "'site-packages' in sys.modules[name].__file__}\n"
        "assert not third - {'medldm'}, third\n"
        "assert len(loaded) < 200, len(loaded)\n"
    )
    assert done.returncode == 0, done.stderr


def clocks_in_assertions(tree):
    """Lines that assert something about the clock of the wall, directly or through a variable that was read from it."""

    def reads(node):
        return any(
            (isinstance(each, ast.Attribute) and each.attr in CLOCKS)
            or (isinstance(each, ast.Name) and each.id in CLOCKS)
            for each in ast.walk(node)
        )

    return [each.lineno for each in ast.walk(tree) if isinstance(each, ast.Assert) and reads(each)]


CLOCKS = ("monotonic", "perf_counter", "process_time", "time_ns", "monotonic_ns", "perf_counter_ns")


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_asserts_the_time_on_the_wall(path):
    """A busy machine, or a slow one, is no fault: order of events, counts of calls and imported modules are."""
    assert clocks_in_assertions(ast.parse(path.read_text())) == []
    assert clocks_in_assertions(ast.parse("assert time.monotonic() - begun < 2")) == [1]


@pytest.mark.slow
def test_training_needs_only_torch_monai_numpy_nibabel_and_safetensors():
    banned = "('scipy', 'skimage', 'SimpleITK', 'pydicom', 'rich', 'psutil', 'matplotlib')"
    blocker = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {banned} and not any('monai' in str(f) for f in callers()):\n"
        "            raise ImportError(name + ' is not installed here')\n"
        "def callers():\n"
        "    frame, names = sys._getframe(2), []\n"
        "    while frame: names.append(frame.f_globals.get('__name__', '')); frame = frame.f_back\n"
        "    return names\n"
        "sys.meta_path.insert(0, Gone())\n"
        "import medldm.training, medldm.training.data, medldm.training.validation\n"
    )
    done = run(blocker)
    assert done.returncode == 0, done.stderr


def test_package_metadata_has_one_home():
    kept = configparser.ConfigParser()
    kept.read(ROOT / "setup.cfg")
    assert not {"metadata", "options"} & set(kept.sections())


def test_the_manifest_bears_the_name_of_the_distribution():
    manifest = yaml.safe_load((ROOT / "napari_plugin/napari_medldm/napari.yaml").read_text())
    assert manifest["name"] == "medldm"
    assert all(command["id"].startswith("medldm.") for command in manifest["contributions"]["commands"])


def test_the_models_room_also_answers_as_a_function():
    import medldm
    from medldm.models.blocks import space_to_depth

    assert callable(space_to_depth)
    assert isinstance(medldm.models(), list)


def test_shipped_weights_match_their_cards_and_stay_small():
    from medldm.zoo import cards, check_weights

    for card in cards():
        check_weights(card)
    assert sum(path.stat().st_size for path in {card.path for card in cards()}) < 25e6


def test_one_version():
    """It stands in pyproject.toml; the citation repeats it, the plugin asks for it."""
    import tomllib

    import napari_medldm

    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {told}\n" in (ROOT / "CITATION.cff").read_text()
    assert napari_medldm.__version__ == told


def test_monai_is_imported_in_one_place():
    """It asks for the user's name and for a folder to write to; `medldm/models/monai_parts.py` answers."""
    importing = [
        path.name
        for path in (ROOT / "medldm").rglob("*.py")
        if any(line.strip().startswith(("import monai", "from monai")) for line in path.read_text().splitlines())
    ]
    assert importing == ["monai_parts.py"]


@pytest.fixture
def toy_tasks(monkeypatch):
    """A task with a scan and one without any, as somebody else's package would add them."""
    from dataclasses import dataclass

    from medldm.data.volume import Volume
    from medldm.settings import Settings, knob
    from medldm.tasks import TASKS, Inputs, Labels, Task

    @dataclass(frozen=True, kw_only=True)
    class ToyBrighten(Settings):
        """Add a constant to every voxel."""

        amount: float = knob(1.0, "what is added", low=0)

    @dataclass(frozen=True, kw_only=True)
    class ToyDraw(Settings):
        """Draw a ramp."""

        size: int = knob(8, "edge of the image", unit="voxels", low=2, whole=True)

    def brighten(inputs: Inputs, settings: ToyBrighten, progress):
        progress(0, 1, "scan")
        return inputs.scan.with_voxels((inputs.scan.voxels + settings.amount).astype(np.float32))

    def draw(inputs: Inputs, settings: ToyDraw, progress):
        ramp = np.arange(settings.size**3, dtype=np.float32).reshape((settings.size,) * 3)
        return Volume(ramp, np.eye(4), name="ramp")

    toys = (
        Task(
            name="toy-brighten",
            help="make a scan brighter",
            settings=ToyBrighten,
            run=brighten,
            labels=Labels(
                title="Toy brighten", past="brightened", desc="bright", derivation=(("1", "99TOY", "Brightening"),)
            ),
        ),
        Task(
            name="toy-draw",
            help="draw a ramp",
            settings=ToyDraw,
            run=draw,
            labels=Labels(title="Toy draw", past="drawn", desc="drawn"),
            needs=frozenset(),
        ),
    )
    for task in toys:
        monkeypatch.setitem(TASKS, task.name, task)
    return toys


def test_a_task_from_outside_runs_in_python(toy_tasks, phantom):
    import medldm.settings
    import medldm.tasks
    from medldm.errors import UsageError

    bright = medldm.tasks.run("toy-brighten", phantom, medldm.settings.ToyBrighten(amount=2))
    assert np.allclose(bright.voxels, phantom.voxels + 2)
    assert [step.task for step in bright.history] == ["toy-brighten"]
    assert np.allclose(medldm.toy_brighten(phantom, amount=3).voxels, phantom.voxels + 3)
    assert medldm.toy_draw(size=5).shape == (5, 5, 5)
    ramp = medldm.tasks.run("toy-draw", None, medldm.settings.ToyDraw(size=4))
    assert ramp.shape == (4, 4, 4)
    assert ramp.history[0].facts["invented_slices"] == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="needs a scan"):
        medldm.tasks.run("toy-brighten", None, medldm.settings.ToyBrighten())


def test_a_task_from_outside_is_a_verb_of_the_command_line(toy_tasks, scan_file, tmp_path, capsys):
    from medldm.cli import main

    assert main(["--help"]) == 0
    assert "make a scan brighter" in capsys.readouterr().out
    for name, option in (("toy-brighten", "--amount"), ("toy-draw", "--size")):
        assert main([name, "--help"]) == 0
        assert option in capsys.readouterr().out
    bright = tmp_path / "bright.nii.gz"
    assert main(["toy-brighten", str(scan_file), str(bright), "--amount", "2"]) == 0
    assert np.array_equal(nib.load(bright).get_fdata(), nib.load(scan_file).get_fdata() + 2)
    ramp = tmp_path / "ramp.nii.gz"
    assert main(["toy-draw", str(ramp), "--size", "4"]) == 0
    assert nib.load(ramp).shape == (4, 4, 4)
    assert json.loads((tmp_path / "ramp_medldm.json").read_text())["settings"]["size"] == 4
    assert main(["toy-draw", str(ramp)]) == 2
    assert main(["toy-draw", str(ramp), "--overwrite"]) == 0


def test_a_task_from_outside_runs_over_a_folder_and_names_bids_results(toy_tasks, phantom, tmp_path):
    from medldm.cli import main

    bids = tmp_path / "bids"
    for folder in (tmp_path / "in", bids / "sub-1/anat"):
        folder.mkdir(parents=True)
    for name in ("a", "b"):
        phantoms.save(tmp_path / "in" / f"{name}.nii.gz", phantom.voxels, phantom.affine, dtype=np.int16)
    assert main(["toy-brighten", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out/summary.json").read_text())
    assert [row["status"] for row in (rows if isinstance(rows, list) else rows["cases"])] == ["done", "done"]
    phantoms.save(bids / "sub-1/anat/sub-1_T1w.nii.gz", phantom.voxels, phantom.affine, dtype=np.int16)
    (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    assert main(["bids", str(bids), str(tmp_path / "derived"), "participant", "--task", "toy-brighten"]) == 0
    assert (tmp_path / "derived/sub-1/anat/sub-1_desc-bright_T1w.nii.gz").exists()


def test_a_task_from_outside_is_named_by_its_dicom_series(toy_tasks, phantom, tmp_path):
    import phantoms_dicom
    import pydicom

    from medldm.cli import main

    source = phantoms_dicom.write_series(tmp_path / "in", np.rint(phantom.voxels).astype(np.int16))
    assert main(["toy-brighten", str(source), str(tmp_path / "out")]) == 0
    image = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert [code.CodeMeaning for code in image.DerivationCodeSequence] == ["Brightening"]
    assert image.SeriesDescription.endswith("medldm toy-brighten RUO")


def test_a_task_from_outside_has_a_panel_in_napari(toy_tasks, phantom):
    widgets = pytest.importorskip("napari_medldm.widgets")
    from napari_medldm.jobs import Order, carry_out

    offered = widgets.panels()
    assert offered["toy-brighten"].verb == "toy-brighten"
    assert widgets.ToyDrawWidget is offered["toy-draw"]
    outcome = carry_out(Order("toy-draw", None, {"size": 4}), lambda *news: None)
    assert outcome.layers[0][1]["name"] == "toy draw drawn"


def test_the_manifest_of_napari_offers_every_task():
    from medldm.tasks import TASKS

    contributions = yaml.safe_load((ROOT / "napari_plugin/napari_medldm/napari.yaml").read_text())["contributions"]
    offered = {widget["command"]: widget["display_name"] for widget in contributions["widgets"]}
    titles = {f"medldm.{name.replace('-', '_')}": task.labels.title for name, task in TASKS.items()}
    assert offered == titles
    assert {item["command"] for item in contributions["menus"]["napari/layers/filter"]} == set(titles)


def test_a_task_from_outside_stands_in_the_docs(toy_tasks):
    import importlib.util

    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert "| Toy draw | draw a ramp | `medldm toy-draw` | nothing |" in hooks.tasks()
    assert "## medldm toy-brighten" in hooks.command_line()
