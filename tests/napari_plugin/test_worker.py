"""Orders as Qt signals: what arrives on the GUI thread, and what napari's activity dock shows of it."""

import threading

import phantoms
import pytest
from medldm_widgets import LONG
from napari.utils.progress import progress as activities
from napari_medldm import worker
from napari_medldm.engine import Failure, Job
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import snapshot
from napari_medldm.worker import start

pytestmark = pytest.mark.gui


class Scripted:
    """An engine that reports from a thread of its own what the test says."""

    busy = False

    def __init__(self, *messages):
        self.messages, self.stopped = messages, threading.Event()

    def run(self, order, progress, ended):
        job = Job(order, progress, ended)
        threading.Thread(target=self._go, args=(job,)).start()
        return job

    def _go(self, job):
        for message in self.messages:
            if message == "wait":
                assert self.stopped.wait(LONG / 1000)
            elif isinstance(message, tuple):
                job.progress(*message)
            else:
                job.ended(message)

    def stop(self, job):
        self.stopped.set()


@pytest.fixture
def denoise(as_layer):
    return Order("denoise", snapshot(as_layer(phantoms.phantom((8, 8, 4)))))


class Heard:
    """What arrived, and on which thread."""

    def __init__(self, order):
        self.news, self.ends, self.threads, self.shown = [], [], set(), []
        self.run = start(order, progress=self.progressed, done=self.done)
        assert (self.news, self.ends) == ([], [])

    def progressed(self, news):
        self.threads.add(threading.current_thread())
        self.news.append(news)
        self.shown += [bar.desc for bar in activities._all_instances]

    def done(self, end):
        self.threads.add(threading.current_thread())
        assert not activities._all_instances
        self.ends.append(end)


def test_all_news_arrive_in_order_on_the_gui_thread_and_the_activity_dock_shows_them(
    qtbot, denoise, make_napari_viewer, monkeypatch
):
    make_napari_viewer()
    steps = [(done, 300, "planes") for done in range(300)]
    monkeypatch.setattr(worker, "engine_of", lambda order: Scripted(*steps, Outcome(text="done"), (300, 300, "late")))
    heard = Heard(denoise)
    qtbot.waitUntil(lambda: heard.ends == [Outcome(text="done")], timeout=LONG)
    qtbot.wait(50)
    assert heard.news == steps
    assert heard.threads == {threading.main_thread()}
    assert set(heard.shown) == {"Denoise phantom"}
    assert not activities._all_instances


@pytest.mark.parametrize("end", [None, Failure("It did not work."), Outcome()])
def test_whatever_the_end_is_the_activity_dock_is_left_empty(end, qtbot, denoise, monkeypatch):
    monkeypatch.setattr(worker, "engine_of", lambda order: Scripted((1, 2, "planes"), end))
    heard = Heard(denoise)
    qtbot.waitUntil(lambda: heard.ends == [end], timeout=LONG)
    assert heard.shown == ["Denoise phantom"]
    assert not activities._all_instances


def test_cancel_in_the_activity_dock_cancels_the_run(qtbot, denoise, monkeypatch):
    monkeypatch.setattr(worker, "engine_of", lambda order: Scripted((1, 2, "planes"), "wait", None))
    heard = Heard(denoise)
    qtbot.waitUntil(lambda: heard.news != [], timeout=LONG)
    (bar,) = activities._all_instances
    bar.cancel()
    qtbot.waitUntil(lambda: heard.ends == [None], timeout=LONG)
    assert heard.run.wish.is_set()


def test_a_viewer_that_closes_takes_its_activity_dock_along(qtbot, denoise, make_napari_viewer, monkeypatch):
    viewer = make_napari_viewer()
    monkeypatch.setattr(worker, "engine_of", lambda order: Scripted((1, 9, "planes"), "wait", (5, 9, "planes"), None))
    heard = Heard(denoise)
    qtbot.waitUntil(lambda: heard.news != [], timeout=LONG)
    viewer.close()
    qtbot.wait(50)
    heard.run.stop()
    qtbot.waitUntil(lambda: heard.ends == [None], timeout=LONG)
    assert heard.news == [(1, 9, "planes"), (5, 9, "planes")]


def test_a_question_is_too_short_for_the_activity_dock(qtbot, denoise, monkeypatch):
    monkeypatch.setattr(worker, "engine_of", lambda order: Scripted(Outcome(text="9")))
    heard = Heard(Order("missing", denoise.scan))
    assert not activities._all_instances
    qtbot.waitUntil(lambda: heard.ends == [Outcome(text="9")], timeout=LONG)


def test_an_address_as_device_is_a_sentence(qtbot, denoise):
    heard = Heard(Order("denoise", denoise.scan, {"device": "https://gpu-server:8080"}))
    qtbot.waitUntil(lambda: heard.ends != [], timeout=LONG)
    assert "Remote computing is not available yet." in heard.ends[0].text
