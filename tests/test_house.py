"""The shape that the house promises to keep."""

import configparser
import subprocess
import sys
import time
from pathlib import Path

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


def test_help_and_models_answer_at_once():
    for words in (["--help"], ["models"]):
        fastest = 9.0
        for _ in range(3):  # the best of three: another process may hold the core
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "medldm", *words], capture_output=True, check=True)
            fastest = min(fastest, time.perf_counter() - start)
        assert fastest < 0.5, words


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
        "import medldm.training, medldm.training.patches, medldm.training.validation\n"
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
    """It asks for the user's name and for a folder to write to; `medldm/from_monai.py` answers."""
    importing = [
        path.name
        for path in (ROOT / "medldm").rglob("*.py")
        if any(line.strip().startswith(("import monai", "from monai")) for line in path.read_text().splitlines())
    ]
    assert importing == ["from_monai.py"]
