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


@pytest.mark.parametrize("arguments", [["--help"], ["denoise", "--help"], ["--version"], ["models"], ["denoise"]])
def test_help_versions_and_models_load_next_to_nothing(arguments):
    """What makes an answer slow is what is imported for it: NumPy alone takes longer than all the rest."""
    done = run(
        "import sys\nbefore = set(sys.modules)\n"
        f"from medldm.cli import main\nmain({arguments!r})\n"
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
            (isinstance(part, ast.Attribute) and part.attr in CLOCKS)
            or (isinstance(part, ast.Name) and part.id in CLOCKS)
            for part in ast.walk(node)
        )

    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert) and reads(node)]


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
    everywhere = [path for room in ("medldm", "docs") for path in (ROOT / room).rglob("*.safetensors")]
    assert sum(path.stat().st_size for path in everywhere) < 40 * 2**20  # those for research included


def test_one_version():
    """It stands in pyproject.toml; the citation repeats it, the plugin asks for it."""
    import tomllib

    import napari_medldm

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert napari_medldm.__version__ == version


def test_monai_is_imported_in_one_place():
    """It asks for the user's name and for a folder to write to; `medldm/models/monai_parts.py` answers."""
    importing = [
        path.name
        for path in (ROOT / "medldm").rglob("*.py")
        if any(line.strip().startswith(("import monai", "from monai")) for line in path.read_text().splitlines())
    ]
    assert importing == ["monai_parts.py"]


# --- additions from outside the package: modality and degradation ---------------------------------------------------


@pytest.fixture
def ultrasound(monkeypatch):
    """A toy modality, registered from outside: bytes of magnitude with speckle."""
    from medldm.modality import MODALITIES, Modality, NoiseModel

    kind = Modality(
        name="us",
        noise=NoiseModel(family="rician", highest=1.0, noisy_from=0.1),
        suffixes=frozenset(("us",)),
        by_values=lambda low, high: "its values are whole bytes" if (low, high) == (0, 255) else "",
        sop_class="1.2.840.10008.5.1.4.1.1.6.1",
    )
    monkeypatch.setitem(MODALITIES, kind.name, kind)
    return kind


@pytest.fixture
def echo(phantom):
    """A phantom whose values are those of the toy modality, and of no other."""
    import numpy as np

    voxels = phantom.voxels.astype(np.float32)
    return phantom.with_voxels((255 * voxels / voxels.max()).astype(np.float32))


def test_a_new_modality_is_guessed_and_named(ultrasound, echo):
    from dataclasses import replace

    from medldm import io
    from medldm.qc.noise import estimate_noise

    bare = replace(echo, stored=replace(echo.stored, modality=None), name="scan")
    name, why = io.guess_modality(bare)
    assert name == "us"
    assert why == "scan is taken for US, since its values are whole bytes; say --modality mr or ct otherwise."
    assert io.modality_by_name(Path("liver_US.nii.gz")) == "us"
    assert estimate_noise(bare.voxels, bare.spacing, "us").unit == "fraction"
    # Without a model for it, the sentence says so.
    import medldm
    from medldm.errors import ModelError

    with pytest.raises(ModelError, match="restores US"):
        medldm.denoise(bare)


def test_a_new_modality_is_an_option_of_the_command_line_and_the_plugin(ultrasound, capsys):
    from dataclasses import fields

    from medldm.cli import main
    from medldm.settings import Denoise

    assert main(["denoise", "--help"]) == 0
    text = capsys.readouterr().out
    assert "{auto,mr,ct,us}" in text
    assert Denoise(modality="us").modality == "us"
    assert f"US: {ultrasound.noise.meaning}" in " ".join(text.split())
    knob = next(knob for knob in fields(Denoise) if knob.name == "modality")
    assert list(knob.metadata["choices"]) == ["auto", "mr", "ct", "us"]  # what the form of the plugin offers


def test_a_new_modality_runs_in_a_batch_and_through_dicom(ultrasound, echo, tiny_model, tmp_path):
    import json
    import shutil

    import numpy as np
    import phantoms
    import phantoms_dicom
    import pydicom

    from medldm.cli import main

    model = tmp_path / "model" / "toy.json"
    shutil.copytree(tiny_model.parent, model.parent)
    card = json.loads((model.parent / tiny_model.name).read_text())
    model.write_text(json.dumps(card | {"name": "toy", "modality": "us"}))
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    small = np.asarray(echo.voxels[:32, :32, :12])
    phantoms.save(scans / "a_us.nii.gz", small, dtype=np.int16)
    phantoms_dicom.write_series(
        scans / "b", small, modality="US", SOPClassUID=ultrasound.sop_class,
        edit=lambda image, k: setattr(image.file_meta, "MediaStorageSOPClassUID", ultrasound.sop_class),
    )  # fmt: skip
    assert main(["denoise", str(scans), str(out), "--model", str(model), "--noise", "0.05", "--no-progress"]) == 0
    records = [json.loads(path.read_text()) for path in out.rglob("*_medldm.json")]
    assert [record["modality"] for record in records] == ["us", "us"]
    derived = [pydicom.dcmread(path) for path in out.rglob("*") if path.is_file() and path.suffix in ("", ".dcm")]
    assert {(str(image.Modality), str(image.SOPClassUID)) for image in derived} == {("US", ultrasound.sop_class)}


@pytest.fixture
def dimming(monkeypatch):
    """A toy degradation, registered from outside: half of the signal is lost."""
    import torch

    from medldm.degradations import DEGRADATIONS, Degradation, Observation, Row

    class Dimming(Degradation):
        linear = True
        shares = {"mr": 1.0, "ct": 1.0}

        def degrade(self, clean, generator=None):
            return clean * 0.5

        def adjoint(self, measured):
            return measured * 0.5

        def observe(self, measured):
            return Observation(measured, torch.ones_like(measured))

        def reconcile(self, guess, measured):
            return measured * 2

        @classmethod
        def examples(cls, shape):
            return (cls(),)

        @classmethod
        def draw(cls, shape, generator):
            return cls()

        @classmethod
        def validation(cls, shape):
            return {"dimmed": cls()}

        @classmethod
        def rows(cls):
            return (Row("dimmed", "denoise", cls),)

        @classmethod
        def of_row(cls, row, scan, generator):
            return cls(), {}

    monkeypatch.setitem(DEGRADATIONS, "dimming", Dimming)
    return Dimming


def test_a_new_degradation_is_drawn_in_training_and_shown_in_validation(dimming, phantom, monkeypatch):
    import numpy as np
    import torch

    from medldm.degradations import DEGRADATIONS
    from medldm.settings import Architecture
    from medldm.training import batches
    from medldm.training.corpus import Blocks
    from medldm.training.damage import family_shares
    from medldm.training.data import Packed
    from medldm.training.validation import cubes

    for kind in DEGRADATIONS.values():
        if kind is not dimming:
            monkeypatch.setattr(kind, "shares", dict.fromkeys(kind.shares, 0.0))
    whole = (1000 * phantom.voxels / phantom.voxels.max()).astype(np.uint16)
    scan = Packed(whole, 1e-3, (1.0, 1.0, 1.0), 2, True, 1.0, "a.nii.gz", "a")
    blocks = Blocks(torch.rand(3, 32, 16, 16), torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.long))
    measured = batches.measure(blocks, torch.Generator().manual_seed(0))
    torch.testing.assert_close(measured.y, blocks.clean * 0.5)
    assert {list(family_shares())[number] for number in measured.task} == {"dimming"}
    case = next(case for case in cubes([scan], Architecture(), per_task=1) if case.task == "dimmed")
    torch.testing.assert_close(case.observation.y, case.clean * 0.5)


def test_a_new_degradation_has_rows_in_the_benchmark(dimming, tmp_path, monkeypatch):
    import numpy as np
    import phantoms

    from medldm.benchmark import run
    from medldm.benchmark.scoring import Backbone

    monkeypatch.setattr(sys.modules[run.__module__], "encoder_backbone", Backbone)
    (tmp_path / "data").mkdir()
    phantoms.save(tmp_path / "data" / "p1_T1w.nii.gz", phantoms.brain((48, 50, 46)), dtype=np.int16)
    table = run(tmp_path / "data", tmp_path / "out", tasks=["dimmed"], methods_wanted=["nothing", "nlm"])
    assert "dimmed" in table.read_text()


def test_a_new_degradation_joins_the_contract_tests(dimming):
    import importlib.util
    import inspect

    import torch

    path = ROOT / "tests/degradations/test_degradations.py"
    spec = importlib.util.spec_from_file_location("contract_of_degradations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    passed = []
    for name, test in vars(module).items():
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        if name.startswith("test_") and any("dimming-0" in mark.args[1] for mark in marks):
            generator = torch.Generator().manual_seed(0)
            clean = torch.rand(module.SHAPE, generator=generator)
            given = {"name": "dimming-0", "clean": clean, "generator": generator}
            test(**{argument: given[argument] for argument in inspect.signature(test).parameters})
            passed.append(name)
    assert len(passed) >= 6


@pytest.fixture
def toy_format():
    """A format from outside the package: one class, one call."""
    import numpy as np

    from medldm.errors import InputError
    from medldm.io.formats import FORMATS, register
    from medldm.io.image_format import Format, ImageFiles, Loaded, Probe

    class Toy(Format):
        """A line of JSON, then float32 voxels."""

        name, title = "toy", "TOY"
        suffixes = written = kept = (".toy",)
        dtypes = ("f4",)

        def sniff(self, head):
            return head.startswith(b'{"toy": ')

        def probe(self, path):
            with path.open("rb") as raw:
                line = raw.readline()
            if not self.sniff(line):
                raise InputError(f"{path} is no TOY file.")
            header = json.loads(line)
            return Probe(ImageFiles(path, path), header, tuple(header["toy"]), np.dtype(np.float32))

        def load(self, probe, index):
            data = probe.files.voxels.read_bytes().split(b"\n", 1)[1]
            voxels = np.frombuffer(data, np.float32).reshape(probe.shape)
            return Loaded(voxels, np.array(probe.header["affine"], float))

        def save(self, voxels, volume, path):
            header = {"toy": voxels.shape, "affine": volume.stored_affine().tolist()}
            path.write_bytes(json.dumps(header).encode() + b"\n" + voxels.tobytes())

    register(Toy())
    yield Toy
    del FORMATS["toy"]


def test_a_format_from_outside_is_known_to_every_interface(toy_format, phantom, scan_file, tmp_path, stub_network):
    import numpy as np

    import medldm
    from medldm.cli import main
    from medldm.io.discovery import find_cases
    from medldm.io.formats import stem

    medldm.write(phantom, tmp_path / "in" / "below" / "scan.toy")
    (tmp_path / "in" / "unnamed").write_bytes((tmp_path / "in" / "below" / "scan.toy").read_bytes())
    again = medldm.read(tmp_path / "in" / "below" / "scan.toy")
    assert np.array_equal(again.voxels, phantom.voxels)
    assert np.allclose(again.affine, phantom.affine)
    assert again.stored.container == "toy"
    assert stem(Path("scan.toy")) == "scan"
    assert [case.kind for case in find_cases(tmp_path / "in")] == ["toy", "toy"]
    assert main(["inspect", str(tmp_path / "in")]) == 0
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--noise", "0.05"]) == 0
    assert np.allclose(medldm.read(tmp_path / "out" / "below" / "scan.toy").voxels, phantom.voxels + 1)
    assert (tmp_path / "out" / "below" / "scan_medldm.json").exists()
    assert (tmp_path / "out" / "unnamed.toy").exists()
    assert main(["denoise", str(scan_file), str(tmp_path / "named.toy"), "--noise", "0.05"]) == 0
    assert main(["denoise", str(scan_file), str(tmp_path / "asked"), "--noise", "0.05", "--format", "toy"]) == 0
    assert (tmp_path / "asked" / "scan.toy").exists()
    (tmp_path / "broken.toy").write_bytes(b"nothing")
    assert main(["denoise", str(tmp_path / "broken.toy"), str(tmp_path / "never")]) == 3


def test_a_format_from_outside_is_known_to_napari(toy_format, phantom, tmp_path):
    pytest.importorskip("napari")
    import numpy as np
    from napari_medldm.layers import layer_data
    from napari_medldm.readers import get_reader
    from napari_medldm.writers import write_image

    import medldm

    data, attributes, _ = layer_data(phantom)
    (path,) = write_image(str(tmp_path / "layer.toy"), data, attributes)
    assert path.endswith("layer.toy")
    (layer,) = get_reader(path)(path)
    assert np.allclose(layer[0], data)
    assert np.allclose(medldm.read(path).affine, phantom.affine, atol=1e-4)


def test_a_format_that_is_only_read_says_so(toy_format, scan_file, tmp_path, monkeypatch, capsys):
    from medldm.cli import main

    monkeypatch.setattr(toy_format, "written", ())
    monkeypatch.setattr(toy_format, "kept", ())
    monkeypatch.setattr(toy_format, "why_not_written", "TOY is read and not written. Name a .nii.gz file.")
    for arguments in (["named.toy"], ["out", "--format", "toy"]):
        assert main(["denoise", str(scan_file), *arguments]) == 2
        assert "TOY is read and not written" in capsys.readouterr().err


def test_the_napari_manifest_knows_every_format_that_results_have():
    from medldm.io.formats import FORMATS

    manifest = yaml.safe_load((ROOT / "napari_plugin" / "napari_medldm" / "napari.yaml").read_text())["contributions"]
    patterns = manifest["readers"][0]["filename_patterns"]
    usual = [suffix for form in FORMATS.values() for suffix in form.kept]
    assert {f"*{suffix}" for suffix in usual} <= set(patterns)
    for writer in manifest["writers"][:2]:
        assert set(usual) <= set(writer["filename_extensions"])


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


def test_a_task_from_outside_is_a_command_of_the_command_line(toy_tasks, scan_file, tmp_path, capsys):
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
    from napari_medldm.form import in_order
    from napari_medldm.jobs import Order, carry_out

    assert {"toy-brighten", "toy-draw"} <= set(in_order())
    assert widgets.open_toy_draw.__name__ == "open_toy_draw"  # what its manifest names
    with pytest.raises(AttributeError):
        _ = widgets.open_nothing_of_the_kind
    outcome = carry_out(Order("toy-draw", None, {"size": 4}), lambda *news: None)
    assert outcome.layers[0][1]["name"] == "toy draw drawn"


def test_a_task_from_outside_uses_the_networks_under_a_name_that_cards_know(monkeypatch, tiny_model, phantom):
    import medldm
    from medldm.degradations import Rician
    from medldm.inference.conditioning import pick_orientations
    from medldm.inference.pipeline import Conditions, in_stored_units, record, sample
    from medldm.inference.resolve import NoiseLevel, resolve, scaled
    from medldm.settings import Settings
    from medldm.tasks import TASKS, Labels, Task

    class ToySmooth(Settings):
        """Smooth a scan."""

    def smooth(inputs, settings, progress):
        scan = resolve(inputs.scan, settings, task)
        orientations = pick_orientations((), (), inputs.scan.shape, inputs.scan.spacing)
        conditions = Conditions(Rician(0).observe(scaled(scan)[0]), NoiseLevel.uniform(0.05), orientations)
        samples = sample(scan, conditions, progress)
        return record(scan, samples, in_stored_units(scan, samples.mean), {"invented_slices": []})

    task = Task(
        name="toy-smooth",
        help="smooth a scan",
        settings=ToySmooth,
        run=smooth,
        labels=Labels(title="Toy smooth", past="smoothed", desc="smooth"),
        networks="denoise",
        intent=lambda scan, settings: f"Smooth {scan.name}.",
    )
    monkeypatch.setitem(TASKS, task.name, task)
    small = phantom.with_voxels(np.ascontiguousarray(phantom.voxels[16:48, 16:48, 16:32]), phantom.affine)
    step = medldm.toy_smooth(small, model=str(tiny_model), device="cpu").history[-1]
    assert (step.task, step.facts["model"]) == ("toy-smooth", json.loads(tiny_model.read_text())["name"])
    text = pytest.importorskip("napari_medldm.text")
    assert text.intent("toy-smooth", small, {}) == f"Smooth {small.name}."


def test_the_manifest_of_napari_offers_every_task():
    from medldm.tasks import TASKS

    contributions = yaml.safe_load((ROOT / "napari_plugin/napari_medldm/napari.yaml").read_text())["contributions"]
    assert [widget["display_name"] for widget in contributions["widgets"]] == ["medldm", "Runs"]  # one dock for all
    titles = {f"medldm.{name.replace('-', '_')}": f"{task.labels.title} (medldm)" for name, task in TASKS.items()}
    commands = {command["id"]: command["title"] for command in contributions["commands"]}
    assert titles.items() <= commands.items()
    assert {item["command"] for item in contributions["menus"]["napari/layers/filter"]} == set(titles)


def test_a_task_from_outside_stands_in_the_docs(toy_tasks):
    import importlib.util

    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert "| Toy draw | draw a ramp | `medldm toy-draw` | nothing |" in hooks.tasks()
    assert "## medldm toy-brighten" in hooks.command_line()


def test_a_sampler_from_outside_is_used_by_name(tiny_model, phantom, tmp_path):
    """A card names it; no option does."""
    import shutil

    import numpy as np
    import torch

    import medldm
    from medldm.diffusion import SAMPLERS, register
    from medldm.errors import ModelError

    calls = []

    def toy(flow, noise, steps):
        calls.append(steps)
        return flow(noise, torch.zeros(len(noise)))

    card = json.loads(tiny_model.read_text()) | {"use": {"denoise": {"sampler": "toy"}}}
    shutil.copy(tiny_model.parent / card["weights"], tmp_path)
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(card))
    scan = phantom.with_voxels(np.ascontiguousarray(phantom.voxels[16:48, 16:48, 16:32]), phantom.affine)
    options = {"noise": 0.05, "steps": 2, "fidelity": 0, "model": str(path), "device": "cpu", "precision": "fp32"}
    with pytest.raises(ModelError, match="'toy'"):
        medldm.denoise(scan, **options)
    try:
        register("toy")(toy)
        drawn = medldm.denoise(scan, **options)
    finally:
        SAMPLERS.pop("toy", None)
    assert set(calls) == {2}
    assert not np.array_equal(drawn.voxels, medldm.denoise(scan, **options | {"model": str(tiny_model)}).voxels)
