"""Every shell and Python block of README and documentation runs.

Blocks of a page run in order, in one folder, on small scans under the names that the page uses. Most run as they stand,
in this process. What needs more than one machine, a network or a night has a way of its own in `WAYS`, which says what
stands in for that: see `recipes.py` and `tests/standins`. Training minutes are shortened, and
four scans stand for a hundred.
"""

import itertools
import os
import re
import shlex
from pathlib import Path

import numpy as np
import phantoms
import phantoms_dicom
import pytest
import recipes

from medldm.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "napari_plugin" / "README.md"]
    + [p for p in (ROOT / "docs").rglob("*.md") if p.parent.name not in ("decisions", "benchmarks", "core", "ct")]
)
BLOCK = re.compile(r"^```(?P<kind>bash|python)\n(?P<text>.*?)^```", re.S | re.M)
FENCE = re.compile(r"^\s*(?:```|~~~)(\S*)", re.M)
WRITERS = ("restore", "denoise", "super-resolve", "fill-slices", "inpaint", "rerun", "bids", "export-model")
SHORTER = 0.001  # training minutes are multiplied by this
# A word of the block, and who knows how to run it here.
SETTINGS = {
    "git clone": recipes.from_a_clone,
    "pip install -c constraints.txt .": recipes.from_a_clone,
    "docs/benchmarks/all.py ../shared/data": recipes.published_tables,
    "medldm train all": recipes.small_networks,
    "medldm train pack": recipes.packed_for_elsewhere,
    "medldm train unet scans.zip": recipes.elsewhere,
    "#SBATCH": recipes.slurm_array,
    "dask scheduler ": recipes.own_scheduler,
    "dask ssh": recipes.by_ssh,
    "SLURMCluster": recipes.dask_on_slurm,
    "KubeCluster": recipes.dask_on_kubernetes,
    "podman build": recipes.in_a_container,
    "medldm[napari]": recipes.napari_window,
}


def blocks(page):
    return [match.groupdict() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands(text):
    """Lines of a shell block, continued ones joined, comments cut, variables of the environment filled in."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        [os.path.expandvars(word) for word in command]
        for line in lines
        if (command := shlex.split(line, comments=True))
    ]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """The files that pages speak of, small."""
    monkeypatch.chdir(tmp_path)
    head = phantoms.rician(phantoms.brain((40, 48, 16)), 12, 0)
    thick = np.diag([1.0, 1.0, 3.0, 1.0])
    phantoms.save(tmp_path / "scan.nii.gz", head, thick, dtype=np.int16)
    mask = np.zeros(head.shape, np.uint8)
    mask[18:22, 20:24, 6:9] = 1
    phantoms.save(tmp_path / "lesion.nii.gz", mask, thick)
    phantoms.save(tmp_path / "mask.nii.gz", mask, thick)
    for folder in ("scans", "training_scans", "bids_dataset/sub-01/anat"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        phantoms.save(tmp_path / "scans" / f"{name}.nii.gz", head, thick, dtype=np.int16)
    phantoms_dicom.write_series(tmp_path / "dicom_folder", phantoms.brain((32, 36, 12)).astype(np.int16))
    anat = tmp_path / "bids_dataset" / "sub-01" / "anat"
    phantoms.save(anat / "sub-01_T1w.nii.gz", head, np.eye(4), dtype=np.int16)
    (tmp_path / "bids_dataset" / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.9.0"}')
    (tmp_path / "test_scans").mkdir()
    phantoms.save(tmp_path / "test_scans" / "c.nii.gz", phantoms.brain((48, 56, 64)), np.eye(4), dtype=np.int16)
    (tmp_path / "hippocampi").mkdir()
    lines = ["split,file,subject,modality"]
    for number, split in enumerate(("train", "train", "train", "val")):
        cutout = phantoms.rician(phantoms.brain((36, 48, 34)), 4, number)
        phantoms.save(tmp_path / "hippocampi" / f"h{number}.nii.gz", cutout, np.eye(4), dtype=np.int16)
        lines.append(f"{split},h{number}.nii.gz,h{number},T1w")
    (tmp_path / "hippocampi" / "split.csv").write_text("\n".join(lines))
    lines = ["split,file,subject"]
    for number, split in enumerate(("train", "val")):
        grown = phantoms.rician(phantoms.brain((72, 76, 70)), 8, number)
        phantoms.save(tmp_path / "training_scans" / f"s{number}.nii.gz", grown, np.eye(4), dtype=np.int16)
        lines.append(f"{split},s{number}.nii.gz,s{number}")
    (tmp_path / "training_scans" / "split.csv").write_text("\n".join(lines))
    return tmp_path


RUN = [page for page in PAGES if blocks(page)]


def run_here(block, known, monkeypatch):
    """A block as it stands: Python in one namespace for the page, commands of medldm one by one."""
    if block["kind"] == "python":
        exec(compile(block["text"], "block", "exec"), known)
        return
    for command in commands(block["text"]):
        assert command[0] == "medldm", f"nobody knows how to run {command[0]!r} here; add a way"
        if "--minutes" in command:
            at = command.index("--minutes") + 1
            command[at] = str(SHORTER * float(command[at]))
        if "--count" in command:
            command[command.index("--count") + 1] = "4"
        assert main([*command[1:], *(["--no-progress"] if command[1] in ("restore", "denoise") else [])]) == 0, command
        paths = list(itertools.takewhile(lambda word: not word.startswith("-"), command[2:]))
        last = paths[1 if command[1] == "bids" else -1]  # OUT stands behind one input or several
        out = command[command.index("--out") + 1] if "--out" in command else last if command[1] in WRITERS else "."
        assert "--dry-run" in command or Path(out).exists(), command


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_blocks_of_a_page_run(page, scans, monkeypatch):
    known = {}
    for block in blocks(page):
        setting = next((setting for phrase, setting in SETTINGS.items() if phrase in block["text"]), None)
        with monkeypatch.context() as patched:
            if setting is None:
                run_here(block, known, patched)
            else:
                setting(block["text"], scans, patched, lambda block=block: run_here(block, known, patched))


def test_every_way_is_needed_and_every_block_has_a_language():
    text = "\n".join(block["text"] for page in PAGES for block in blocks(page))
    assert [phrase for phrase in SETTINGS if phrase not in text] == []
    for page in PAGES:
        kinds = FENCE.findall(page.read_text(encoding="utf-8"))
        assert set(kinds[::2]) <= {"bash", "python", "text"}, page
        assert sum(kind in ("bash", "python") for kind in kinds) == len(blocks(page)), page


@pytest.mark.slow
def test_the_site_is_built_of_the_code_and_loads_nothing(tmp_path):
    """Strictly: a broken link, a page without a place or a name that is not there fails the build."""
    mkdocs = pytest.importorskip("mkdocs.commands.build")
    config = pytest.importorskip("mkdocs.config").load_config(
        str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True
    )
    mkdocs.build(config)
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert "fill-slices" in pages["reference/cli.html"]
    assert "brain-mri-2d-fast" in pages["reference/models.html"]
    assert "half_width" in pages["reference/python.html"]
    assert 'id="medldm.denoise"' in pages["reference/python.html"]
    assert "See <code>medldm.denoise</code>" not in pages["reference/python.html"]  # that is what inner functions say
    assert re.search(r"<code>path</code>.*?–\s*<div[^>]*>\s*<p>file or folder", pages["reference/python.html"], re.S)
    assert "lesions-gap-of-5-lost.png" in pages["concepts/responsible-use.html"]
    assert "test subjects" in pages["concepts/responsible-use.html"]
    for name, text in pages.items():
        assert not re.search(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), name
        assert not re.search(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(?:https?:)?//', text), name
