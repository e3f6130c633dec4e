"""The computing process: runs, stops, dies, and is started again."""

import itertools
import os
import signal
import threading
from types import SimpleNamespace

import dask.array as da
import numpy as np
import phantoms
import pytest
from napari.layers import Image
from napari_medldm.engine import PATIENCE_S, TICK_S, Engine
from napari_medldm.ipc import receive, send
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import snapshot

from medldm.errors import Cancelled, InputError, ResourceError


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.unload()


@pytest.fixture
def scan(as_layer):
    return snapshot(as_layer(phantoms.phantom((32, 40, 20))))


def last(engine, order, stop=None):
    return end_of(engine.run(order, stop or threading.Event()))


def end_of(news):
    while True:
        try:
            next(news)
        except StopIteration as end:
            return end.value


def test_a_question_is_answered_and_the_process_stays(engine, scan):
    assert isinstance(last(engine, Order("plan", scan)), Outcome)
    first = engine.process
    assert "noise" in last(engine, Order("noise", scan)).text
    assert engine.process is first
    engine.unload()
    assert engine.process is None
    assert first.poll() is not None


@pytest.mark.slow
def test_an_error_arrives_as_the_sentence_that_it_was(engine, as_layer):
    empty = phantoms.phantom((8, 8, 8))
    empty = empty.with_voxels(empty.voxels * 0)
    with pytest.raises(InputError, match="zero everywhere"):
        last(engine, Order("denoise", snapshot(as_layer(empty))))


def test_a_killed_process_is_reported_as_lack_of_memory_and_the_next_run_works(engine, scan):
    news = engine.run(Order("denoise", scan), threading.Event())
    next(news)
    next(news)
    os.kill(engine.process.pid, signal.SIGKILL)
    with pytest.raises(ResourceError, match="memory ran out"):
        list(news)
    assert not engine.busy
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


@pytest.mark.slow
def test_stop_ends_a_run_that_does_not_hear_it_even_while_torch_is_loading(engine, scan, monkeypatch):
    """Counted by a clock of the test, so the speed of the machine does not matter."""
    ticks = itertools.count()
    monkeypatch.setattr("napari_medldm.engine.time", SimpleNamespace(monotonic=lambda: TICK_S * next(ticks)))
    assert PATIENCE_S < 2
    stop, after = threading.Event(), []
    news = engine.run(Order("denoise", scan), stop)
    for _, _, what in news:
        if what == "loading torch":
            break
    stop.set()
    with pytest.raises(Cancelled):
        after.extend(news)
    assert len(after) <= PATIENCE_S / TICK_S + 2
    assert not engine.busy


def test_a_run_that_nobody_waits_for_is_ended(engine, scan):
    news = engine.run(Order("denoise", scan), threading.Event())
    next(news)
    next(news)
    process = engine.process
    news.close()
    assert process.poll() is not None
    assert not engine.busy


def test_messages_with_arrays_survive_the_pipe():
    take, give = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    sent = {"array": np.random.default_rng(0).random((200, 300, 40)), "turned": np.arange(6).reshape(2, 3).T}
    writer = threading.Thread(target=send, args=(give, sent))
    writer.start()
    got = receive(take)
    writer.join()
    assert np.array_equal(got["array"], sent["array"])
    assert np.array_equal(got["turned"], sent["turned"])
    give.close()
    with pytest.raises(EOFError):
        receive(take)
    take.close()


def test_a_slow_lazy_scan_does_not_hold_cancel_up(engine):
    asked, wait, copied = threading.Event(), threading.Event(), threading.Event()

    def slow(block):
        if asked.is_set():  # drawing the layer computes a plane, too
            wait.wait()
            copied.set()
        return block

    lazy = da.ones((4, 8, 8), chunks=(1, 8, 8)).map_blocks(slow, meta=np.ones((1, 1, 1)))
    stop, loaded = threading.Event(), snapshot(Image(lazy, contrast_limits=(0, 1)))
    asked.set()
    news = engine.run(Order("denoise", loaded), stop)
    assert next(news)[2] == "copying the scan"
    assert next(news)[2] == "copying the scan"
    stop.set()
    with pytest.raises(Cancelled):
        list(news)
    assert not copied.is_set()  # the run ended before the scan was there
    wait.set()


def test_what_is_edited_while_another_run_goes_on_is_not_what_was_asked_for(engine, as_layer):
    layer = as_layer(phantoms.with_missing_slices(phantoms.phantom((32, 40, 20)), [9]))
    engine.turn.acquire()
    news = engine.run(Order("missing", snapshot(layer)), threading.Event())
    assert "waiting" in [what for _, _, what in (next(news), next(news))][-1]
    layer.data[4] = 0
    engine.turn.release()
    assert end_of(news).text == "9"


def test_a_question_that_nobody_waits_for_any_more_costs_no_loaded_model(engine, scan, monkeypatch):
    last(engine, Order("plan", scan))
    process, stop, sent = engine.process, threading.Event(), []

    def send_and_stop(pipe, message):
        sent.append(message)
        send(pipe, message)
        stop.set()

    monkeypatch.setattr("napari_medldm.engine.send", send_and_stop)
    assert isinstance(last(engine, Order("plan", scan), stop), Outcome)
    assert engine.process is process
    assert len(sent) == 1
