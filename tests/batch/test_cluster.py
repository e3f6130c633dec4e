"""Real schedulers and workers on loopback: a killed worker loses nothing, a case that kills workers is given up."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import phantoms
import pytest

pytest.importorskip("distributed")

from distributed import Client

from medldm.batch import Options, Watch, run_batch
from medldm.batch.dask_cluster import environments
from medldm.batch.dask_queue import AHEAD
from medldm.errors import ResourceError
from medldm.settings import Denoise

# What every worker loads before it starts: a network that adds one, sleeps on cases called "slow", kills on "poison";
# a disk that is full for "full"; a bug outside of the steps for "buggy".
PRELOAD = """
import os, signal, sys, time, types
open(os.path.join(os.environ["MEDLDM_TEST"], "worker-began"), "w").close()
import medldm
from medldm import tasks
from medldm.batch import ledger, publish
from medldm.batch import dask_queue
from medldm.io.atomic import sentence
from medldm.data.volume import Step

def run(task, volume, settings, *, mask=None, progress=None):
    if volume.name.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    marker = os.path.join(os.environ["MEDLDM_TEST"], "slow-began")
    if volume.name.startswith("slow") and not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    facts = {"model": "stub", "sha256": "0", "seconds": 1.0}
    return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

real = getattr(publish.write, "real", publish.write)  # Dask may load this twice

def write(volume, path, **options):
    if "full" in path.name:
        problem = OSError(28, "No space left on device")
        raise sentence(problem, path) from problem
    return real(volume, path, **options)

restored = getattr(dask_queue.with_retries, "real", dask_queue.with_retries)

def with_retries(work):
    if work.case.place.name == "buggy":
        raise RuntimeError("nobody thought of this")
    return restored(work)

write.real, with_retries.real = real, restored
tasks.run, publish.write, dask_queue.with_retries = run, write, with_retries
ledger.weights_for = lambda *_: "0"
"""


@contextmanager
def cluster(folder, workers):
    """`dask scheduler` and `dask worker` as users start them; gives the address."""
    (folder / "preload.py").write_text(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    environment = os.environ | {"MEDLDM_TEST": str(folder), "OMP_NUM_THREADS": "1"}
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--no-dashboard"]
    worker = [*dask, "worker", address, "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"]
    worker += ["--preload", str(folder / "preload.py"), "--local-directory", str(folder), "--memory-limit", "0"]
    running = [subprocess.Popen(command, env=environment, **quiet) for command in (scheduler, worker)]
    try:
        all_up(address, workers)
        yield address
    finally:
        for process in reversed(running):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def all_up(address, workers):
    """Wait for workers and their nannies.

    `dask worker` ends as a whole when one of its workers dies before its nanny calls it started; a case that kills at
    once would end them all, where real ones first load a model.
    """
    with Client(address, timeout=280, set_as_default=False) as client:
        client.wait_for_workers(workers)
        until(lambda: set(client.run(lambda dask_worker: dask_worker.status.name, nanny=True).values()) == {"running"})


def hearing():
    """Ctrl-C means what it means in a terminal, also where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def scans(folder, *names):
    folder.mkdir()
    for name in names:
        phantoms.save(folder / f"{name}.nii.gz", phantoms.brain((16, 16, 8)), dtype=np.int16)
    return folder


def denoise(source, out, address, say=lambda line: None, **options):
    options = Options(scheduler=address, **options)
    return run_batch("denoise", source, out, Denoise(noise=0.05), options, Watch(say=say))


def until(true):
    """Wait for something to become true; what never does is ended by the limit of pytest."""
    while not true():
        time.sleep(0.05)


def rows(out):
    return {row["case"]: row for row in json.loads((out / "summary.json").read_text())}


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_a_poisonous_case_is_given_up(tmp_path):
    source, out = scans(tmp_path / "in", "a", "b", "c", "poison", "slow"), tmp_path / "out"
    with cluster(tmp_path, 2) as address:
        killer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, pathlib, signal, sys, time\n"
                "marker = pathlib.Path(sys.argv[1])\n"
                "while not (marker.exists() and marker.read_text()): time.sleep(0.05)\n"
                "os.kill(int(marker.read_text()), signal.SIGKILL)",
                str(tmp_path / "slow-began"),
            ]
        )
        code = denoise(source, out, address)
        assert killer.wait() == 0
    statuses = rows(out)
    assert code == 8
    assert {name: row["status"] for name, row in statuses.items()} == {
        "a": "done",
        "b": "done",
        "c": "done",
        "poison": "failed",
        "slow": "done",
    }
    assert "died 2 times" in statuses["poison"]["message"]
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz", "c.nii.gz", "slow.nii.gz"]
    assert not list(out.glob(".tries*"))


def test_a_case_that_finds_no_memory_beside_its_neighbours_waits_for_it(tmp_path, stub_network, monkeypatch):
    from medldm.batch import Run, dask_queue, ledger, steps
    from medldm.io.discovery import find_cases

    reads, read = [], steps.load

    def load(case, options):
        reads.append(case)
        if len(reads) < 3:
            raise ResourceError("it needs about 1.0 GiB of memory, 0.9 GiB are free")
        return read(case, options)

    monkeypatch.setattr(steps, "load", load)
    monkeypatch.setattr(ledger, "weights_for", lambda *_: "0")
    monkeypatch.setattr(dask_queue, "RETRY_AFTER_S", (0, 0, 0))
    (case,) = find_cases(scans(tmp_path / "in", "a"))
    dask_queue.make_marks(tmp_path / "marks")
    row, full = dask_queue.on_worker(
        Run(verb="denoise", settings=Denoise()), case, tmp_path / "out", tmp_path / "marks"
    )
    assert (row.status, full, len(reads)) == ("done", False, 3)
    assert not list((tmp_path / "marks").iterdir())


@pytest.mark.slow
def test_what_goes_wrong_with_one_case_is_its_row_and_the_others_finish(tmp_path):
    long = "x" * (255 - len(".nii"))  # no hidden name fits beside it
    source, out = scans(tmp_path / "in", "a", "buggy", "z"), tmp_path / "out"
    phantoms.save(source / f"{long}.nii", phantoms.brain((16, 16, 8)), dtype=np.int16)
    with cluster(tmp_path, 1) as address:
        code = denoise(source, out, address)
    statuses = rows(out)
    assert code == 8
    assert {name: row["status"] for name, row in statuses.items()} == {
        "a": "done",
        "buggy": "failed",
        long: "refused",
        "z": "done",
    }
    assert "a bug in medldm (RuntimeError in " in statuses["buggy"]["message"]
    assert "please report it" in statuses["buggy"]["message"]
    said = (out / "logs" / "buggy.log").read_text()
    assert "RuntimeError" in said
    assert "nobody thought of this" not in said  # it could quote a header


def test_a_disk_too_full_for_a_mark_ends_the_batch(tmp_path, monkeypatch):
    from medldm.batch import Run, dask_queue
    from medldm.io.discovery import find_cases

    (case,) = find_cases(scans(tmp_path / "in", "a"))
    marks = tmp_path / "marks"
    dask_queue.make_marks(marks)
    monkeypatch.setattr(dask_queue, "tried", lambda *_: 0)  # what is always full never ends either, for who reads it
    dask_queue.mark_of(marks, case).symlink_to("/dev/full")
    row, full = dask_queue.on_worker(Run(verb="denoise", settings=Denoise()), case, tmp_path / "out", marks)
    assert (row.status, full) == ("failed", True)
    assert "disk is full" in row.message


def test_a_worker_begins_nothing_for_a_batch_that_ended(tmp_path, monkeypatch):
    from medldm.batch import Run, dask_queue
    from medldm.io.discovery import find_cases

    monkeypatch.setattr(dask_queue, "FOLDER_TIMEOUT_S", 0.1)
    (case,) = find_cases(scans(tmp_path / "in", "a"))
    out = tmp_path / "out"
    row, full = dask_queue.on_worker(Run(verb="denoise", settings=Denoise()), case, out, out / ".tries-0")
    assert (row.status, full) == ("failed", False)
    assert "same for every worker" in row.message  # the other reason why it is not there
    assert not out.exists()


def test_the_folder_of_marks_may_appear_late(tmp_path):
    from medldm.batch import dask_queue
    from medldm.io.discovery import find_cases

    (case,) = find_cases(scans(tmp_path / "in", "a"))
    marks = tmp_path / "marks"
    threading.Timer(0.2, dask_queue.make_marks, [marks]).start()
    dask_queue.leave_mark(marks, case)
    assert dask_queue.tried(marks, case) == 1


@pytest.mark.slow
def test_a_dry_run_on_workers_writes_nothing(tmp_path):
    source, out, lines = scans(tmp_path / "in", "a", "b"), tmp_path / "out", []
    with cluster(tmp_path, 1) as address:
        assert denoise(source, out, address, say=lines.append, dry_run=True) == 0
    assert len(lines) == 3, lines  # two cases, and how many there were
    assert not out.exists()


def test_a_cluster_without_workers_is_waited_for_with_a_message(monkeypatch, caplog):
    from types import SimpleNamespace

    from medldm.batch import dask_queue

    workers = {"tcp://a": {}}
    client = SimpleNamespace(scheduler_info=lambda n_workers: {"workers": workers})
    monkeypatch.setattr(dask_queue, "WORKER_CHECK_S", 0.01)
    with dask_queue.missing_workers_warned(client):
        time.sleep(0.1)
        assert not caplog.records
        workers.clear()
        until(lambda: caplog.records)
        time.sleep(0.1)
    assert len(caplog.records) == 1  # once, not every minute
    assert "no worker" in caplog.text


def test_a_scheduler_that_hangs_does_not_keep_a_batch_that_ends(monkeypatch, caplog):
    from types import SimpleNamespace

    from medldm.batch import dask_queue

    asked, answer = threading.Event(), threading.Event()

    def scheduler_info(n_workers):
        asked.set()
        answer.wait()
        return {}

    monkeypatch.setattr(dask_queue, "WORKER_CHECK_S", 0.01)
    monkeypatch.setattr(dask_queue, "STOP_TIMEOUT_S", 0.1)
    with dask_queue.missing_workers_warned(SimpleNamespace(scheduler_info=scheduler_info)):
        asked.wait()
    answer.set()
    until(lambda: not any(thread.name == "medldm-workers" for thread in threading.enumerate()))
    assert not caplog.records  # what comes too late is of no interest


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("medldm.batch.dask_cluster.CONNECT_TIMEOUT_S", 1)
    source = scans(tmp_path / "in", "a", "b")
    with pytest.raises(ResourceError, match="dask scheduler"):
        denoise(source, tmp_path / "out", "tcp://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a case is restored", "a case is reported"])
def test_a_scheduler_that_dies_ends_the_batch_with_a_sentence(tmp_path, moment):
    source, out = scans(tmp_path / "in", "a", "b", "slow", "then"), tmp_path / "out"
    killed = []

    def kill(pid):
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    with cluster(tmp_path, 1) as address:
        with Client(address, timeout=280, set_as_default=False) as client:
            pid = client.run_on_scheduler(os.getpid)

        def say(line):
            if moment == "a case is reported" and not killed:
                kill(pid)
                time.sleep(1)  # the next case is sent to a scheduler that is known to be lost

        def watch():
            until(lambda: (tmp_path / "slow-began").exists())
            kill(pid)

        if moment == "a case is restored":
            threading.Thread(target=watch, daemon=True).start()
        with pytest.raises(ResourceError, match=r"scheduler went away\. Run the same command again to go on"):
            denoise(source, out, address, say=say)
    assert rows(out)["a"]["status"] == "done"
    assert not list(out.glob(".tries*"))


@pytest.mark.slow
def test_a_client_that_gave_up_on_its_scheduler_is_a_sentence(tmp_path):
    from medldm.batch import Run
    from medldm.batch.dask_queue import Queue, workers_of
    from medldm.io.discovery import find_cases

    (case,) = find_cases(scans(tmp_path / "in", "a"))
    run = Run(verb="denoise", settings=Denoise())
    with cluster(tmp_path, 1) as address, Client(address, timeout=280, set_as_default=False) as client:
        queue = Queue(client, run, tmp_path / "out", None)
        client.sync(client._close)  # as it does by itself when it cannot reconnect
        assert workers_of(client, run) == run.options.workers
        with pytest.raises(ResourceError, match="scheduler went away"):
            queue.send(case)


def test_workers_have_a_device_each_or_share_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in environments(3, "auto")] == ["2", "5", "2"]
    assert all("CUDA_VISIBLE_DEVICES" not in place for place in environments(2, "cpu"))


def test_without_dask_a_sentence_says_what_to_install(tmp_path, tiny_model, capsys, monkeypatch):
    from medldm.cli import main

    monkeypatch.setitem(sys.modules, "distributed", None)
    source = scans(tmp_path / "in", "a", "b")
    arguments = ["denoise", str(source), str(tmp_path / "out"), "--workers", "2", "--model", str(tiny_model)]
    assert main(arguments) == 2
    assert "pip install medldm[cluster]" in capsys.readouterr().err


@pytest.mark.slow
def test_after_a_failure_fail_fast_sends_no_other_case(tmp_path):
    source, out = scans(tmp_path / "in", "a-empty", *(f"b{number}" for number in range(8))), tmp_path / "out"
    phantoms.save(source / "a-empty.nii.gz", np.zeros((16, 16, 8), np.int16))
    with cluster(tmp_path, 1) as address:
        code = denoise(source, out, address, fail_fast=True)
    statuses = rows(out)
    assert code == 8
    assert statuses["a-empty"]["status"] == "refused"
    assert len(statuses) <= 1 + AHEAD  # what was under way already


@pytest.mark.slow
def test_a_full_disk_ends_the_batch_with_a_summary_of_what_was_done(tmp_path):
    source, out = scans(tmp_path / "in", "a", "full", *(f"later{number}" for number in range(8))), tmp_path / "out"
    with cluster(tmp_path, 1) as address:
        code = denoise(source, out, address)
    statuses = rows(out)
    assert code == 8
    assert statuses["a"]["status"] == "done"
    assert statuses["full"]["status"] == "failed"
    assert "disk is full" in statuses["full"]["message"]
    assert len(statuses) <= 2 + AHEAD
    assert not list(out.glob("*full*.gz"))


@pytest.mark.slow
def test_what_was_done_but_not_reported_is_in_the_summary_of_an_interrupted_batch(tmp_path):
    source, out = scans(tmp_path / "in", "a", "b", "c"), tmp_path / "out"

    def say(line):
        if "a" in line.split():
            until(lambda: (out / "b.nii.gz").exists())
            time.sleep(1)  # its answer has come
            raise KeyboardInterrupt

    with cluster(tmp_path, 1) as address, pytest.raises(KeyboardInterrupt):
        denoise(source, out, address, say=say)
    assert {name: row["status"] for name, row in rows(out).items()} == {"a": "done", "b": "done"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["worker-began", "slow-began"])
def test_ctrl_c_in_a_terminal_reaches_the_workers_too_and_they_say_nothing(tmp_path, moment):
    source, out = scans(tmp_path / "in", "a", "slow", "slow2"), tmp_path / "out"
    (tmp_path / "preload.py").write_text(PRELOAD)
    preload = {"MEDLDM_TEST": str(tmp_path), "DASK_DISTRIBUTED__WORKER__PRELOAD": str(tmp_path / "preload.py")}
    arguments = ["denoise", source, out, "--noise", "0.05", "--workers", "2", "--device", "cpu"]
    running = subprocess.Popen(
        [sys.executable, "-m", "medldm", *map(str, arguments)],
        env=os.environ | preload,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hearing,
    )
    until(lambda: (tmp_path / moment).exists())
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate()  # returns when the last worker has closed its end
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert "Nanny" not in said
    assert said.splitlines()[-1].startswith("medldm: interrupted")
    assert not list(out.glob(".tries*"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_summary_and_no_marks_and_the_next_run_goes_on(tmp_path):
    source, out = scans(tmp_path / "in", "a", "b", "slow"), tmp_path / "out"
    with cluster(tmp_path, 1) as address:
        command = ["denoise", source, out, "--noise", "0.05", "--scheduler", address]
        running = subprocess.Popen(
            [sys.executable, "-m", "medldm", *map(str, command)], stderr=subprocess.PIPE, text=True, preexec_fn=hearing
        )
        until(lambda: (tmp_path / "slow-began").exists())
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
        assert running.returncode == 130, said
        assert "run the same command again" in said
        assert {name: row["status"] for name, row in rows(out).items()} == {"a": "done", "b": "done"}
        assert not list(out.glob(".tries*"))
        until(lambda: (tmp_path / "slow-began").read_text())
        os.kill(int((tmp_path / "slow-began").read_text()), signal.SIGKILL)  # asleep on a case that nobody waits for
        lines = []
        assert denoise(source, out, address, say=lines.append) == 0
    assert {row["status"] for row in rows(out).values()} == {"done"}
    assert sum("already done" in line for line in lines) == 2
