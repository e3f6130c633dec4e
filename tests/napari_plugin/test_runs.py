"""The list of runs, without a widget: it keeps what widgets lose."""

import gc
import weakref

import numpy as np
import phantoms
import pytest
from medldm_widgets import LONG
from napari.layers import Image
from napari_medldm import runs as module
from napari_medldm import worker
from napari_medldm.engine import Failure
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.runs import ALMOST, CANCELLED, DONE, FAILED, QUEUED, RUNNING, RunList

pytestmark = pytest.mark.gui
RESULT = Outcome((layer_data(phantoms.phantom((8, 8, 4)), name="phantom denoised"),), "cpu, 2 s")


@pytest.fixture
def scan(viewer, as_layer):
    return viewer.add_layer(as_layer(phantoms.phantom((8, 8, 4))))


def begin(runs, scan, **more):
    return runs.start(Order("denoise", snapshot(scan), {"seed": 3}), title="Denoise phantom", scan=scan, **more)


def until(qtbot, entry, state):
    qtbot.waitUntil(lambda: entry.state == state, timeout=LONG)


def test_a_run_is_queued_then_running_then_done_and_never_looks_done_before(qtbot, runs, engine, scan):
    shares = []
    runs.changed.connect(lambda entry: shares.append(entry.share))
    entry = begin(runs, scan)
    assert (entry.number, entry.state, entry.options) == (1, QUEUED, {"seed": 3})
    engine.jobs[0].progress(0, 1, "waiting for another run")
    qtbot.waitUntil(lambda: entry.what == "waiting for another run", timeout=LONG)
    assert entry.state == QUEUED
    engine.jobs[0].progress(1, 4, "planes")
    until(qtbot, entry, RUNNING)
    assert (entry.share, entry.what) == (0.25, "1 of 4 planes")
    engine.jobs[0].progress(4, 4, "planes")
    qtbot.waitUntil(lambda: entry.share == ALMOST, timeout=LONG)
    engine.jobs[0].ended(Outcome(text="Nothing to do."))
    until(qtbot, entry, DONE)
    assert (entry.share, entry.text, entry.ended >= entry.started) == (1, "Nothing to do.", True)
    assert shares == sorted(shares)
    assert shares.index(1) >= 3


def test_what_went_wrong_is_kept(qtbot, runs, engine, scan):
    entry = begin(runs, scan)
    engine.jobs[0].ended(Failure("The scan is zero everywhere."))
    until(qtbot, entry, FAILED)
    assert entry.text == "The scan is zero everywhere."
    assert not entry.layers


def test_each_of_several_can_be_cancelled_while_it_waits(qtbot, runs, engine, scan):
    first, second = begin(runs, scan), begin(runs, scan)
    assert runs.going_on == [first, second]
    second.cancel()
    until(qtbot, second, CANCELLED)
    assert first.state == QUEUED


class Dock:
    def __init__(self):
        self.outcomes = []

    def show(self, outcome, entry):
        self.outcomes.append(outcome)
        entry.added(entry.viewer.add_layer(Image(np.zeros((4, 8, 8)), name="shown by the dock")))


def test_the_dock_shows_the_outcome_and_undo_takes_it_away(qtbot, runs, engine, viewer, scan):
    dock = Dock()
    entry = begin(runs, scan, show=dock.show)
    engine.jobs[0].ended(RESULT)
    until(qtbot, entry, DONE)
    assert dock.outcomes == [RESULT]
    assert [layer.name for layer in viewer.layers] == ["phantom", "shown by the dock"]
    entry.undo()
    assert list(viewer.layers) == [scan]
    entry.undo()  # of nothing is nothing


def gone(outcome, entry):
    raise RuntimeError("wrapped C/C++ object of type QLabel has been deleted")


@pytest.mark.parametrize("case", ["collected", "refuses", "deleted", "never there"])
def test_a_result_whose_dock_is_gone_is_added_all_the_same(case, qtbot, runs, engine, viewer, scan):
    dock = Dock()
    shows = {"collected": dock.show, "refuses": lambda outcome, entry: False, "deleted": gone, "never there": None}
    entry = begin(runs, scan, show=shows[case])
    del dock, shows
    gc.collect()
    engine.jobs[0].ended(RESULT)
    until(qtbot, entry, DONE)
    assert [layer.name for layer in viewer.layers] == ["phantom", "phantom denoised"]
    assert entry.shown == [viewer.layers[1]]


def test_a_dock_that_fails_loses_no_result_and_its_error_is_not_hidden(qtbot, runs, engine, viewer, scan):
    def broken(outcome, entry):
        raise KeyError("name")

    entry = begin(runs, scan, show=broken)
    with qtbot.capture_exceptions() as problems:
        engine.jobs[0].ended(RESULT)
        qtbot.waitUntil(lambda: entry.shown != [], timeout=LONG)
        qtbot.waitUntil(lambda: problems != [], timeout=LONG)
    assert problems[0][0] is KeyError
    assert [layer.name for layer in viewer.layers] == ["phantom", "phantom denoised"]


def test_again_starts_the_same_order(qtbot, runs, engine, scan):
    entry = begin(runs, scan, command=lambda: "medldm denoise")
    assert "not ended" in entry.no_again
    engine.jobs[0].ended(None)
    until(qtbot, entry, CANCELLED)
    twin = entry.again()
    assert engine.jobs[1].order is engine.jobs[0].order
    assert (twin.number, twin.title, twin.command()) == (2, entry.title, "medldm denoise")


@pytest.mark.parametrize("case", ["removed", "replaced"])
def test_voxels_of_a_scan_that_is_gone_are_not_kept(case, qtbot, runs, engine, viewer, scan):
    entry = begin(runs, scan)
    voxels = weakref.ref(engine.jobs[0].order.scan)
    engine.jobs.pop().ended(None)
    until(qtbot, entry, CANCELLED)
    gc.collect()
    assert voxels() is not None
    assert entry.no_again == ""
    if case == "removed":
        viewer.layers.clear()
        assert "no longer in the viewer" in entry.no_again
    else:
        scan.data = np.zeros((4, 8, 8))
        assert "replaced" in entry.no_again
    with pytest.raises(ValueError, match="scan"):
        entry.again()
    gc.collect()
    assert voxels() is None


def test_the_list_keeps_the_last_runs_that_ended_and_all_that_did_not(qtbot, runs, engine, scan, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    removed = []
    runs.removed.connect(removed.append)
    entries = [begin(runs, scan) for _ in range(5)]
    for job in engine.jobs[1:]:
        job.ended(None)
    qtbot.waitUntil(lambda: len(removed) == 2, timeout=LONG)
    assert removed == entries[1:3]
    assert runs.entries == [entries[0], *entries[3:]]


def test_a_viewer_that_closes_ends_its_runs_silently(qtbot, runs, engine, viewer, scan):
    entry = begin(runs, scan)
    viewer.close()
    until(qtbot, entry, CANCELLED)
    assert entry.viewer is None
    assert "no longer" in entry.no_again


def test_a_result_that_comes_after_its_viewer_is_mentioned(qtbot, runs, engine, viewer, scan):
    entry = begin(runs, scan, viewer=viewer)
    entry.loses_viewer()
    engine.jobs[0].ended(RESULT)
    qtbot.waitUntil(lambda: entry.over, timeout=LONG)
    assert entry.shown == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_runs_wait_are_cancelled_and_end_in_the_viewer(qtbot, viewer, scan, tiny_model):
    runs, options = RunList(), {"model": str(tiny_model), "device": "cpu"}
    order = Order("denoise", snapshot(scan), options)
    first, second, third = (runs.start(order, title=f"Denoise {number}", scan=scan) for number in range(3))
    qtbot.waitUntil(lambda: first.state == RUNNING and third.what == "waiting for another run", timeout=LONG)
    second.cancel()
    until(qtbot, second, CANCELLED)
    until(qtbot, first, DONE)
    until(qtbot, third, DONE)
    assert [layer.name for layer in viewer.layers] == ["phantom", "phantom denoised", "phantom denoised [1]"]
    first.undo()
    assert third.shown == [viewer.layers[1]]
    assert "cpu, " in third.text
    assert third.seconds > 0
    worker.engine_of(order).unload()
