"""Members of the registries that another installed package offers: known in every process."""

import os
import queue
import subprocess
import sys

import nibabel as nib
import numpy as np
import phantoms
import pytest

MODULE = """
from dataclasses import dataclass

import numpy as np

from medldm.data.volume import Volume
from medldm.errors import InputError
from medldm.io.image_format import Format
from medldm.modality import Modality, NoiseModel
from medldm.settings import Settings, knob
from medldm.tasks import Labels, Task


@dataclass(frozen=True, kw_only=True)
class Brighten(Settings):
    "Add a constant to every voxel."

    amount: float = knob(1.0, "what is added", low=0)


@dataclass(frozen=True, kw_only=True)
class Draw(Settings):
    "Draw a cube of ones."


def brighten(inputs, settings, progress):
    progress(0, 1, "scan")
    return inputs.scan.with_voxels((inputs.scan.voxels + settings.amount).astype(np.float32))


def draw(inputs, settings, progress):
    return Volume(np.ones((4, 4, 4), np.float32), np.eye(4), name="ones")


class Toy(Format):
    name, title = "toy", "TOY"
    suffixes = written = kept = (".toy",)

    def sniff(self, head):
        return head.startswith(b"TOY")

    def probe(self, path):
        raise InputError("a toy cannot be read")

    def load(self, probe, index):
        raise InputError("a toy cannot be read")

    def save(self, voxels, volume, path):
        path.write_bytes(b"TOY" + voxels.tobytes())


BRIGHTEN = Task(
    name="toy-brighten",
    help="make a scan brighter",
    settings=Brighten,
    run=brighten,
    labels=Labels(title="Toy brighten", past="brightened", desc="bright"),
)
DRAW = Task(
    name="toy-draw",
    help="draw a cube",
    settings=Draw,
    run=draw,
    labels=Labels(title="Toy draw", past="drawn", desc="drawn"),
    needs=frozenset(),
)
ULTRASOUND = Modality(
    name="us",
    noise=NoiseModel(family="rician"),
    by_values=lambda low, high: "",
    sop_class="1.2.840.10008.5.1.4.1.1.6.1",
)
TOY = Toy()


def still(denoise, noise, steps=1, *, progress=lambda step, steps: None):
    return noise
"""
WITH_TORCH = """
from medldm.degradations import Rician


class Louder(Rician):
    pass
"""
ENTRY_POINTS = """
[medldm.tasks]
brighten = toy_medldm:BRIGHTEN
draw = toy_medldm:DRAW
broken = toy_medldm:NOWHERE
taken = medldm.tasks.inpaint:INPAINT
twice = toy_medldm_twice:DENOISE
number = os:name

[medldm.formats]
toy = toy_medldm:TOY

[medldm.modalities]
us = toy_medldm:ULTRASOUND

[medldm.degradations]
louder = toy_medldm_torch:Louder

[medldm.samplers]
still = toy_medldm:still
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small distribution, installed for this process's children."""
    place = tmp_path / "site"
    facts = place / "toy_medldm-1.0.dist-info"
    facts.mkdir(parents=True)
    (place / "toy_medldm.py").write_text(MODULE)
    (place / "toy_medldm_torch.py").write_text(WITH_TORCH)
    (place / "toy_medldm_twice.py").write_text(
        "from dataclasses import replace\nfrom medldm.tasks.denoise import DENOISE\nDENOISE = replace(DENOISE)\n"
    )
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-medldm\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *filter(None, sys.path)]))
    return place


def python(*arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_help_shows_a_task_of_another_package_and_says_what_is_broken(package):
    code = "import sys\nfrom medldm.cli import main\nmain(['--help'])\nassert 'torch' not in sys.modules"
    done = python("-c", code)
    assert "make a scan brighter" in done.stdout
    assert done.stderr.count("is left out") == 3
    assert "The plugin broken of toy-medldm is left out: AttributeError" in done.stderr
    assert "The plugin twice of toy-medldm is left out: ValueError: medldm.tasks has 'denoise' already" in done.stderr
    assert "The plugin number of toy-medldm is left out: TypeError: os:name is nothing for medldm.tasks" in done.stderr
    assert "--amount" in python("-m", "medldm", "toy-brighten", "--help").stdout


def test_every_registry_has_what_another_package_offers(package):
    python(
        "-c",
        "from medldm.modality import MODALITIES\nassert list(MODALITIES) == ['mr', 'ct', 'us']\n"
        "from medldm.io.formats import FORMATS, is_image_name\nfrom pathlib import Path\n"
        "assert FORMATS['toy'].title == 'TOY' and is_image_name(Path('a.toy'))\n"
        "from medldm.degradations import DEGRADATIONS\nassert list(DEGRADATIONS)[-1] == 'louder'\n"
        "from medldm.diffusion import SAMPLERS\nassert set(SAMPLERS) == {'euler', 'straight', 'still'}\n"
        "import medldm\nassert medldm.toy_draw().shape == (4, 4, 4)\n"
        "from medldm.settings import Brighten\nassert Brighten(modality='us').amount == 1\n",
    )


@pytest.mark.slow
def test_dask_workers_know_the_tasks_of_another_package(package, phantom, tmp_path):
    pytest.importorskip("distributed")
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        phantoms.save(tmp_path / "in" / f"{name}.nii.gz", phantom.voxels, phantom.affine, dtype=np.int16)
    python("-m", "medldm", "toy-brighten", tmp_path / "in", tmp_path / "out", "--amount", 2, "--workers", 2)
    for name in ("a", "b"):
        before, after = (nib.load(tmp_path / folder / f"{name}.nii.gz").get_fdata() for folder in ("in", "out"))
        assert np.array_equal(after, before + 2)


@pytest.mark.slow
def test_the_process_that_computes_for_napari_knows_the_tasks_of_another_package(package, monkeypatch):
    pytest.importorskip("napari")
    from napari_medldm.engine import LocalEngine
    from napari_medldm.jobs import Order

    monkeypatch.syspath_prepend(package)
    engine, ends = LocalEngine(), queue.Queue()
    try:
        engine.run(Order("toy-draw", None), lambda *_: None, ends.put)
        outcome = ends.get(timeout=200)
    finally:
        engine.unload()
    assert outcome.layers[0][0].shape == (4, 4, 4)
