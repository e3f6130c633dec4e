"""The computing process: runs, stops, dies, and is started again."""

import os
import pickle
import queue
import signal
import threading
from types import SimpleNamespace

import dask.array as da
import numpy as np
import phantoms
import pytest
from napari.layers import Image
from napari_medldm import computer
from napari_medldm.engine import PATIENCE_S, Failure, LocalEngine, engine_of
from napari_medldm.ipc import receive, send
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import snapshot

LONG_S = 200  # the machine may be busy


@pytest.fixture
def engine():
    engine = LocalEngine()
    yield engine
    engine.unload()


@pytest.fixture
def scan(as_layer):
    return snapshot(as_layer(phantoms.phantom((32, 40, 20))))


class Asked:
    """An order in an engine, and what was heard of it."""

    def __init__(self, engine, order):
        self.news, self.ends = queue.Queue(), queue.Queue()
        self.engine = engine
        self.job = engine.run(order, lambda *news: self.news.put(news), self.ends.put)

    def stop(self):
        self.engine.stop(self.job)

    def until(self, what):
        """Wait for a message."""
        while what not in self.news.get(timeout=LONG_S)[2]:
            pass

    def end(self):
        """Wait for the end."""
        return self.ends.get(timeout=LONG_S)


def last(engine, order):
    return Asked(engine, order).end()


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
    assert "zero everywhere" in last(engine, Order("denoise", snapshot(as_layer(empty)))).text


def test_a_killed_process_is_reported_as_lack_of_memory_and_the_next_run_works(engine, scan):
    run = Asked(engine, Order("denoise", scan))
    run.until("loading torch")
    os.kill(engine.process.pid, signal.SIGKILL)
    assert "memory ran out" in run.end().text
    assert not engine.busy
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


def test_a_process_that_ends_while_it_is_idle_is_started_again(engine, scan):
    last(engine, Order("plan", scan))
    first = engine.computer
    os.kill(first.process.pid, signal.SIGKILL)
    first.listener.join(LONG_S)
    assert engine.process is None
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


@pytest.mark.slow
def test_stop_ends_a_run_that_does_not_hear_it_even_while_torch_is_loading(engine, scan):
    assert PATIENCE_S < 2
    run = Asked(engine, Order("denoise", scan))
    run.until("loading torch")
    process = engine.process
    run.stop()
    assert run.end() is None
    assert process.wait(LONG_S) is not None
    assert not engine.busy


def test_a_run_that_hears_the_stop_ends_without_its_process(engine, monkeypatch, scan):
    monkeypatch.setattr("napari_medldm.engine.PATIENCE_S", LONG_S)
    run = Asked(engine, Order("denoise", scan))
    run.stop()
    assert run.end() is None
    run = Asked(engine, Order("denoise", scan))
    run.until("loading torch")
    process = engine.process
    run.stop()
    assert run.end() is None
    assert engine.process is process
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


def test_unloading_cancels_what_runs(engine, scan):
    run = Asked(engine, Order("denoise", scan))
    run.until("loading torch")
    engine.unload()
    assert run.end() is None
    assert not engine.busy


def test_runs_wait_in_a_queue_each_can_leave_it_and_questions_come_first(engine, scan):
    first = Asked(engine, Order("denoise", scan))
    first.until("loading torch")
    second, third, question = (Asked(engine, Order(verb, scan)) for verb in ("denoise", "denoise", "plan"))
    for one in (second, third, question):
        one.until("waiting for another run")
    second.stop()
    assert second.end() is None
    assert engine.current is first.job
    first.stop()
    assert first.end() is None
    assert isinstance(question.end(), Outcome)
    assert third.ends.empty()
    third.until("starting")
    third.stop()
    assert third.end() is None


def test_what_cannot_be_sent_or_copied_is_a_sentence_and_the_next_order_works(engine, scan):
    assert isinstance(last(engine, Order("denoise", scan, {"noise": threading.Lock()})), Failure)
    broken = SimpleNamespace(question=True, options={}, loaded=lambda: pickle.loads(b"nonsense"))
    assert "bug in medldm" in last(engine, broken).text
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


def test_a_process_that_cannot_be_started_is_a_sentence(engine, scan, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no more processes")

    with monkeypatch.context() as patch:
        patch.setattr(computer.subprocess, "Popen", refuse)
        assert "no more processes" in last(engine, Order("plan", scan)).text
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


def test_messages_that_make_no_sense_end_the_process_and_the_run(engine, scan, monkeypatch):
    def garbage(pipe):
        raise pickle.UnpicklingError("not ours")

    with monkeypatch.context() as patch:
        patch.setattr(computer, "receive", garbage)
        assert isinstance(last(engine, Order("plan", scan)), Failure)
    assert isinstance(last(engine, Order("plan", scan)), Outcome)


def test_an_address_as_device_is_refused_for_now(scan):
    order = Order("denoise", scan, {"device": "http://gpu-server:8080"})
    end = last(engine_of(order), order)
    assert end.text.startswith("Remote computing is not available yet.")


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
    loaded = snapshot(Image(lazy, contrast_limits=(0, 1)))
    asked.set()
    run = Asked(engine, Order("denoise", loaded))
    run.until("copying the scan")
    run.stop()
    assert run.end() is None
    assert not copied.is_set()  # the run ended before the scan was there
    wait.set()


def test_what_is_edited_while_another_run_goes_on_is_not_what_was_asked_for(engine, scan, as_layer):
    layer = as_layer(phantoms.with_missing_slices(phantoms.phantom((32, 40, 20)), [9]))
    other = Asked(engine, Order("denoise", scan))
    other.until("loading torch")
    question = Asked(engine, Order("missing", snapshot(layer)))
    question.until("waiting for another run")
    layer.data[4] = 0
    other.stop()
    assert question.end().text == "9"


def test_a_question_that_nobody_waits_for_any_more_costs_no_loaded_model(engine, scan, monkeypatch):
    last(engine, Order("plan", scan))
    process, sent, begun = engine.process, [], threading.Event()

    def send_and_stop(pipe, message):
        sent.append(message)
        begun.wait(LONG_S)
        question.stop()
        send(pipe, message)

    monkeypatch.setattr(computer, "send", send_and_stop)
    question = Asked(engine, Order("plan", scan))
    begun.set()
    assert isinstance(question.end(), Outcome)
    assert engine.process is process
    assert len(sent) == 1
