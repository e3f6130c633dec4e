"""Every shell and Python block of README and documentation runs, or says why it cannot.

Blocks of a page run in order, in one folder, on small scans under the names that the page uses. A block that cannot run
here has ``<!-- not run: why -->`` on the line before it. Training minutes are shortened; nothing else is changed.
"""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import phantoms
import phantoms_dicom
import pytest

from medldm.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "napari_plugin" / "README.md"]
    + [p for p in (ROOT / "docs").rglob("*.md") if p.parent.name not in ("decisions", "benchmarks", "core", "ct")]
)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<kind>bash|sh|console|python)\n(?P<text>.*?)```", re.S
)
SHORTER = 0.001  # training minutes are multiplied by this


def blocks(page):
    return [match.groupdict() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands(text):
    """Lines of a shell block, continued ones joined, comments cut, variables of the environment filled in."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        [os.path.expandvars(word) for word in words] for line in lines if (words := shlex.split(line, comments=True))
    ]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """The files that pages speak of, small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    head = phantoms.rician(phantoms.brain((40, 48, 16)), 12, 0)
    thick = np.diag([1.0, 1.0, 3.0, 1.0])
    phantoms.save(tmp_path / "scan.nii.gz", head, thick, dtype=np.int16)
    mask = np.zeros(head.shape, np.uint8)
    mask[18:22, 20:24, 6:9] = 1
    phantoms.save(tmp_path / "lesion.nii.gz", mask, thick)
    for folder in ("scans", "training_scans", "bids_dataset/sub-01/anat"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        phantoms.save(tmp_path / "scans" / f"{name}.nii.gz", head, np.eye(4), dtype=np.int16)
    phantoms_dicom.write_series(tmp_path / "dicom_folder", phantoms.brain((32, 36, 12)).astype(np.int16))
    anat = tmp_path / "bids_dataset" / "sub-01" / "anat"
    phantoms.save(anat / "sub-01_T1w.nii.gz", head, np.eye(4), dtype=np.int16)
    (tmp_path / "bids_dataset" / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.9.0"}')
    (tmp_path / "test_scans").mkdir()
    phantoms.save(tmp_path / "test_scans" / "c.nii.gz", phantoms.brain((48, 56, 64)), np.eye(4), dtype=np.int16)
    lines = ["split,file,subject"]
    for number, split in enumerate(("train", "val")):
        grown = phantoms.rician(phantoms.brain((72, 76, 70)), 8, number)
        phantoms.save(tmp_path / "training_scans" / f"s{number}.nii.gz", grown, np.eye(4), dtype=np.int16)
        lines.append(f"{split},s{number}.nii.gz,s{number}")
    (tmp_path / "training_scans" / "split.csv").write_text("\n".join(lines))
    return tmp_path


RUN = [page for page in PAGES if any(not each["why"] for each in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.slow
@pytest.mark.usefixtures("scans")
def test_the_blocks_of_a_page_run(page):
    known = {"input": lambda _: ""}  # nobody sits here to press a key
    for each in (each for each in blocks(page) if not each["why"]):
        if each["kind"] == "python":
            exec(compile(each["text"], str(page), "exec"), known)
            if "cluster" in known:
                known.pop("cluster").close()
            continue
        for words in commands(each["text"]):
            assert words[0] == "medldm", f"{page.name}: nobody knows how to run {words[0]!r} here; tag the block"
            if "--minutes" in words:
                at = words.index("--minutes") + 1
                words[at] = str(SHORTER * float(words[at]))
            assert main([*words[1:], *(["--no-progress"] if words[1] in ("restore", "denoise") else [])]) == 0, words


def test_what_is_not_run_says_why():
    """Each with a reason, and no more of them than today without a thought."""
    tagged = [each["why"] for page in PAGES for each in blocks(page) if each["why"]]
    assert all(len(why) > 8 for why in tagged)
    assert len(tagged) <= 10


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
