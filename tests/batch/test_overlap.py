"""Reading, restoring and writing overlap, and nobody can tell by the outcome."""

import json
import math
import threading
import time

import numpy as np
import phantoms
import pytest

import medldm.tasks
from medldm.batch import Options, Watch, ledger, publish, run_batch, steps
from medldm.batch.summary import Row, tally
from medldm.data.volume import Step
from medldm.errors import ResourceError
from medldm.settings import Denoise


@pytest.fixture
def tree(tmp_path):
    """Four scans in a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        phantoms.save(folder / f"{name}.nii.gz", phantoms.brain((16, 16, 8)), dtype=np.int16)
    return folder


@pytest.fixture
def meeting():
    """Steps that wait for another step to begin."""
    return {}


@pytest.fixture
def seen(monkeypatch, meeting):
    """A network that adds one; what happened in which order, as (step and scan, thread)."""
    log, news = [], threading.Condition()

    def noted(step, name):
        what = f"{step} {name[0]}"
        with news:
            log.append((what, threading.current_thread()))
            news.notify_all()
            if what in meeting:  # a step that never comes would hang here, and the test with it
                news.wait_for(lambda: meeting[what] in [step for step, _ in log])

    def network(task, volume, settings, **options):
        noted("network", volume.name)
        if volume.name.startswith("x"):
            raise ZeroDivisionError("oh")
        facts = {"model": "stub", "sha256": "0", "seconds": 1.0}
        return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

    read, wrote = steps.load, publish.write_image

    def load(case, options):
        noted("read", case.source.name)
        return read(case, options)

    def write_image(case, *rest):
        noted("write", case.source.name)
        return wrote(case, *rest)

    monkeypatch.setattr(medldm.tasks, "run", network)
    monkeypatch.setattr(steps, "load", load)
    monkeypatch.setattr(publish, "write_image", write_image)
    monkeypatch.setattr(ledger, "weights_for", lambda *_: "0")
    return log


def denoise(tree, out, **options):
    said = []
    code = run_batch("denoise", tree, out, Denoise(noise=0.05), Options(**options), Watch(say=said.append))
    return code, "\n".join(said)


def rows(out):
    return {row["case"]: row["status"] for row in json.loads((out / "summary.json").read_text())}


def test_the_next_is_read_and_the_last_written_beside_the_network(tree, tmp_path, seen, meeting):
    """The network of each scan waits until its neighbours are under way; one after the other nothing would go on."""
    meeting |= {"network a": "read b", "network b": "write a", "network c": "write b"}
    assert denoise(tree, tmp_path / "out")[0] == 0
    order = [step for step, _ in seen]
    assert order.index("read d") > order.index("network b")  # a queue of one: nobody reads further ahead
    assert {thread for step, thread in seen if step.startswith("network")} == {threading.main_thread()}
    assert rows(tmp_path / "out") == dict.fromkeys("abcd", "done")


def test_fail_fast_writes_nothing_after_the_failure(tree, tmp_path, seen):
    (tree / "b.nii.gz").rename(tree / "bx.nii.gz")
    (tree / "bx.nii.gz").write_bytes(b"no image")
    code, said = denoise(tree, tmp_path / "out", fail_fast=True)
    assert code == 8
    assert rows(tmp_path / "out") == {"a": "done", "bx": "failed"}
    assert "2 cases were not finished" in said
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]


def test_a_scan_that_does_not_fit_beside_another_one_is_read_again_alone(tree, tmp_path, seen, monkeypatch):
    read, crowded = steps.load, []

    def load(case, options):
        if case.source.name.startswith("c") and not crowded:
            crowded.append(case)
            raise ResourceError("not now")
        return read(case, options)

    monkeypatch.setattr(steps, "load", load)
    assert denoise(tree, tmp_path / "out")[0] == 0
    assert crowded
    assert rows(tmp_path / "out") == dict.fromkeys("abcd", "done")


def test_a_scan_that_cannot_be_restored_beside_another_one_is_restored_alone(tree, tmp_path, seen, monkeypatch):
    network, crowded = medldm.tasks.run, []

    def tight(task, volume, settings, **options):
        if volume.name.startswith("b") and len(crowded) < 2:
            crowded.append([step for step, _ in seen if step == "read c"])
            if len(crowded) == 1:
                while "read c" not in [step for step, _ in seen]:  # until the next one is in memory
                    time.sleep(0.01)
                raise ResourceError("not now")
        return network(task, volume, settings, **options)

    monkeypatch.setattr(medldm.tasks, "run", tight)
    assert denoise(tree, tmp_path / "out")[0] == 0
    order = [step for step, _ in seen]
    assert rows(tmp_path / "out") == dict.fromkeys("abcd", "done")
    # Nothing else is in memory while b is tried again: a is written, c is read anew afterwards.
    assert order.count("read b") == order.count("read c") == 2
    assert order.index("write a") < order.index("network b")
    assert len(order) - order[::-1].index("read c") > order.index("network b")


def test_a_scan_that_fits_nowhere_is_reported_once(tree, tmp_path, seen, monkeypatch):
    network, tries = medldm.tasks.run, []

    def tight(task, volume, settings, **options):
        if volume.name.startswith("d"):
            tries.append(volume)
            raise ResourceError("too large for this machine")
        return network(task, volume, settings, **options)

    monkeypatch.setattr(medldm.tasks, "run", tight)
    code, said = denoise(tree, tmp_path / "out")
    assert (code, len(tries)) == (8, 2)
    assert said.count("too large") == 1


def test_every_case_has_a_log_of_its_own(tree, tmp_path, seen):
    (tree / "a.nii.gz").rename(tree / "x.nii.gz")
    assert denoise(tree, tmp_path / "out")[0] == 8
    logs = {path.stem: path.read_text() for path in (tmp_path / "out" / "logs").iterdir()}
    assert sorted(logs) == ["b", "c", "d", "x"]
    assert "ZeroDivisionError" in logs["x"]
    assert "Traceback" in logs["x"]
    assert "Traceback" not in logs["b"]
    assert logs["b"].splitlines()[-1].startswith("done after")


def test_a_dry_run_tells_memory_and_time_and_writes_nothing(tree, tmp_path, seen):
    out = tmp_path / "out"
    code, said = denoise(tree, out, dry_run=True)
    assert code == 0
    assert said.count("denoise 16 x 16 x 8 voxels; about 1.0 GiB, about 0 s on two CPU cores, by the card of") == 4
    assert said.count("to do: ") == 4
    assert "4 cases: 4 to do; about 0 s of computing" in said
    assert not out.exists()
    denoise(tree, out, include=("a*",))
    assert "4 cases: 3 to do, 1 done; about 3 s of computing" in denoise(tree, out, dry_run=True)[1]
    assert "about 1 s at the pace of what lies in" in denoise(tree, out, dry_run=True, exclude=("a*",))[1]


def test_a_dry_run_adds_up_what_is_known():
    rows = [Row("a", "to do", 3000.0), Row("b", "to do", 9000.0), Row("c", "to do", math.nan), Row("d", "failed", 1.0)]
    assert tally(rows) == "3 to do, 1 failed; about 3.3 h of computing for 2 of them"
    assert tally(rows[2:]) == "1 to do, 1 failed"


def test_parameter_maps_do_not_spoil_a_good_night(tree, tmp_path, seen):
    for name in ("sub-01_T1map", "sub-01_space-T1w_desc-brain_mask", "sub-01_dseg"):
        phantoms.save(tree / f"{name}.nii.gz", phantoms.brain((16, 16, 8)))
    assert denoise(tree, tmp_path / "out")[0] == 0
    assert sorted(rows(tmp_path / "out").values()) == ["done"] * 4 + ["skipped"] * 3
