"""How blocks of the documentation run that ask for a network, other machines, a queue, a window or a night.

The words of a block are never changed, but for paths and addresses of machines that are not here. What stands in for
them lies in `tests/standins`. Each way ends by asking for the effect that the page promises.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import phantoms
import pytest
import strangers
import toy_training

ROOT = Path(__file__).parents[1]
STANDINS = Path(__file__).parent / "standins"
TESTED = Path(sys.executable).parent  # medldm, dask, pip and napari of the tested environment


def bash(text, folder, environment):
    """Run the text in bash; what it said."""
    arguments = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def surroundings(*first, **more):
    """The environment of a shell: executables of `first` before those that are tested; pip reaches no network."""
    path = os.pathsep.join([*map(str, first), str(TESTED), os.environ["PATH"]])
    alone = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return os.environ | alone | {"PATH": path} | {key: str(value) for key, value in more.items()}


# --- installing -------------------------------------------------------------------------------------------------------


def from_a_clone(text, folder, patched, run_here):
    """README's installation: a clone of this repository, environments that borrow all but medldm from the tested one.

    pip builds and installs medldm as it stands in the clone and finds every requirement in the versions of
    constraints.txt; without a network it could not get another.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("only a git repository can be cloned")
    environment = own_environment(folder)
    at = folder / "medldm" if (folder / "medldm").exists() else folder
    said = bash(text.replace("<this repository>", str(ROOT)), at, environment)
    clone, own = folder / "medldm", folder / "own"
    if "make demo" in text:
        assert "restored" in said
        assert (clone / "demo_result" / "restored_preview.png").exists()
        assert (clone / ".venv" / "bin" / "medldm").exists()
    if "pip install" in text:
        where = "import medldm; print(medldm.__file__)"
        assert str(own) in bash(f'python -c "{where}"', folder, environment)
        assert bash("medldm --version", folder, environment).startswith("medldm ")
    if "\nmedldm demo " in text:
        assert "PSNR against the scan" in said
        assert (clone / text.split("medldm demo ")[1].split()[0] / "restored_preview.png").exists()


def own_environment(folder):
    """A virtual environment in which only medldm is missing."""
    own = folder / "own"
    if not own.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
        (own / "bin" / "pip").write_text('#!/bin/bash\nexec python -m pip "$@"\n')
        (own / "bin" / "pip").chmod(0o755)
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    # What a path names is seen without its .pth files: the tested medldm, which is editable, is not importable there.
    return surroundings(own / "bin", PYTHONPATH=sysconfig.get_path("purelib"), **git)


def in_a_container(text, folder, patched, run_here):
    """Images are built elsewhere (`.ci/container.sh`); here the same command lines run as strangers without a home."""
    if strangers.why_impossible():
        pytest.skip(strangers.why_impossible())
    bash(text, folder, surroundings(STANDINS))
    if " restore scan.nii.gz out/" in text:
        assert (folder / "out" / "scan.nii.gz").exists()
        assert (folder / "out" / "scan_preview.png").exists() or "--preview" not in text


# --- what takes a night -----------------------------------------------------------------------------------------------


def published_tables(text, folder, patched, run_here):
    """README's tables, made again from their scores in the clone: the pages that lie there. Scoring takes a night."""
    clone = folder / "medldm"
    pages = [clone / "README.md", *(clone / "docs").rglob("*.md")]
    before = {page: page.read_text() for page in pages}
    assert "all.py ../shared/data" in text
    bash(text.replace(" ../shared/data", ""), clone, own_environment(folder))
    assert {page: page.read_text() for page in pages} == before


def small_networks(text, folder, patched, run_here):
    """Training from nothing: all four stages, resumed and used, with networks of a few channels."""
    toy_networks(patched)
    shutil.rmtree(folder / "out", ignore_errors=True)
    run_here()
    card = json.loads((folder / "runs" / "mine" / "mine.json").read_text())
    assert all(steps > 0 for steps in card["training"]["steps"].values())
    assert set(card["training"]["minutes"]) == {"unet", "spread", "latent", "flow"}
    record = json.loads((folder / "out" / "scan_medldm.json").read_text())
    assert record["model"] == "mine"


def packed_for_elsewhere(text, folder, patched, run_here):
    """One file of the scans, which is all that the next block trains from."""
    run_here()
    assert (folder / "scans.zip").stat().st_size < 60e6
    (folder / "training_scans").rename(folder / "scans_that_stay")


def elsewhere(text, folder, patched, run_here):
    """Stage by stage, in pieces, with networks of a few channels, and no scans but those of the file."""
    from medldm.training import run

    toy_networks(patched)
    begun = phantoms.tiny_model(folder / "begun")
    shipped = run.card
    # The shipped network would take its time: one of a few channels stands in for it.
    patched.setattr(run, "card", lambda name: shipped(str(begun) if name == "brain-mri-2d" else name))
    run_here()
    card = json.loads((folder / "runs" / "gpu" / "gpu.json").read_text())
    assert set(card["training"]["steps"]) == {"unet", "spread", "latent", "flow"}
    assert not (folder / "training_scans").exists()


def toy_networks(patched):
    """Networks of a few channels where training would begin with large ones."""
    from medldm.training import run
    from medldm.training.stages.stage import Sizes

    patched.setattr(run, "default_config", lambda spatial_dims: toy_training.PLANES)
    patched.setattr(run, "LATENT", toy_training.LATENT)
    patched.setattr(Sizes, "fitted", classmethod(lambda cls, *device: toy_training.SIZES))


# --- many machines ----------------------------------------------------------------------------------------------------


def slurm_array(text, folder, patched, run_here):
    """The script goes to a stand-in of sbatch, which runs every task of its array."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    script = folder / "array.sh"
    script.write_text(text)
    bash(f"sbatch {script}", folder, surroundings(STANDINS, STANDIN_SLURM=folder / "queue"))
    tables = sorted((folder / "out").glob("summary-*-of-16.csv"))
    assert len(tables) == 16
    rows = [row for table in tables for row in csv.DictReader(table.open(newline=""))]
    assert sorted((row["case"], row["status"]) for row in rows) == [("a", "done"), ("b", "done")]


def shared_folder(folder):
    """`/data` of the page: scans to restore, and no result of an earlier block."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    shutil.copytree(folder / "scans", folder / "data" / "scans")


def assert_restored(folder):
    """Both scans, by workers of the scheduler."""
    rows = json.loads((folder / "data" / "out" / "summary.json").read_text())
    assert {row["case"]: row["status"] for row in rows} == {"a": "done", "b": "done"}
    assert all((folder / "data" / "out" / f"{name}.nii.gz").exists() for name in "ab")


@contextmanager
def left_running(lines, folder, environment):
    """Start each line, and end all with their children."""
    running = []
    try:
        for number, line in enumerate(lines):
            log = (folder / f"started{number}.log").open("w")
            options = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            running.append(subprocess.Popen(["bash", "-c", f"exec {line}"], start_new_session=True, **options))
        yield running
    finally:
        for process in reversed(running):
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in reversed(running):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)


def lines_of(text, begin):
    """Commands of a block that begin with a word, and the others."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.startswith(begin)], [line for line in lines if not line.startswith(begin)]


def own_scheduler(text, folder, patched, run_here):
    """The scheduler and the worker of the page on this machine; medldm is given the address that the first prints."""
    shared_folder(folder)
    servers, (command,) = lines_of(text.replace("/data", str(folder / "data")), "dask ")
    environment = surroundings()
    with left_running(servers, folder, environment):
        scheduler_file = folder / "data" / "dask.json"
        until(lambda: scheduler_file.exists() and scheduler_file.stat().st_size)
        address = json.loads(scheduler_file.read_text())["address"]
        bash(command.replace("tcp://head:8786", address), folder, environment)
    assert_restored(folder)


def by_ssh(text, folder, patched, run_here):
    """`dask ssh` itself, over a stand-in of paramiko that is installed as the page says: all three hosts are here."""
    shared_folder(folder)
    wheel(folder / "wheels", "paramiko", STANDINS / "paramiko.py")
    install = surroundings(PIP_FIND_LINKS=folder / "wheels", PIP_TARGET=folder / "ssh")
    port, hosts = free_port(), ("head", "node1", "node2")
    environment = surroundings(
        PYTHONPATH=folder / "ssh",
        STANDIN_HOSTS=" ".join(hosts),
        STANDIN_PORT=port,
        STANDIN_SSH=folder / "ssh.log",
    )
    servers, (get, command) = lines_of(text.replace("/data", str(folder / "data")), "dask ")
    bash(get, folder, install)
    with left_running(servers, folder, environment):
        bash(command.replace("head:8786", f"127.0.0.1:{port}"), folder, environment)
        said = (folder / "ssh.log").read_text().splitlines()
    assert_restored(folder)
    assert sorted(line.split(": ")[0] for line in said) == ["head", "head", "node1", "node2"]
    assert sum("--nthreads 1" in line and "--memory-limit 0" in line for line in said) == 3


def dask_on_slurm(text, folder, patched, run_here):
    """The cluster of the page on a stand-in of sbatch; another shell restores, when the page waits for Enter."""
    jobs = folder / "queue-of-dask"
    patched.setenv("PATH", f"{STANDINS}{os.pathsep}{TESTED}{os.pathsep}{os.environ['PATH']}")
    patched.setenv("STANDIN_SLURM", str(jobs))
    python_waiting(text, folder)
    script = (jobs / "1.sh").read_text()
    assert "#SBATCH --gres=gpu:1" in script
    assert "#SBATCH --cpus-per-task=4" in script
    assert script.rstrip().endswith("--memory-limit 0")


def dask_on_kubernetes(text, folder, patched, run_here):
    """The specification of the page, made by dask-kubernetes, checked by the types of Kubernetes, and carried out here.

    Only KubeCluster is a stand-in: it starts one worker by the arguments that the container would get.
    """
    operator = pytest.importorskip("dask_kubernetes.operator")
    from distributed import LocalCluster

    seen = []

    class Cluster(LocalCluster):
        """The scheduler here, a worker as in the container."""

        def __init__(self, custom_cluster_spec):
            seen.append(custom_cluster_spec)
            super().__init__(n_workers=0, dashboard_address=None)
            container_arguments = custom_cluster_spec["spec"]["worker"]["spec"]["containers"][0]["args"]
            environment = os.environ | {"DASK_SCHEDULER_ADDRESS": self.scheduler_address}
            line = " ".join(container_arguments).replace("$(DASK_WORKER_NAME)", "one").replace("8788", "0")
            self.started = left_running(
                [line], folder, environment | {"PATH": f"{TESTED}{os.pathsep}{os.environ['PATH']}"}
            )
            self.started.__enter__()

        def close(self, *arguments, **more):
            self.started.__exit__(None, None, None)
            super().close(*arguments, **more)

    patched.setattr(operator, "KubeCluster", Cluster)
    python_waiting(text, folder)
    (spec,) = seen
    worker, scheduler = (spec["spec"][part]["spec"] for part in ("worker", "scheduler"))
    for pod in (worker, scheduler):
        assert known_to_kubernetes(pod) == without_nothing(pod)
    assert spec["spec"]["worker"]["replicas"] == 8
    assert worker["containers"][0]["volumeMounts"][0]["name"] == worker["volumes"][0]["name"]
    assert "resources" not in without_nothing(scheduler["containers"][0])


def python_waiting(text, folder):
    """Run Python that starts `cluster` and waits for a key; meanwhile, restore with its scheduler in another shell."""
    shared_folder(folder)
    known = {}

    def enter(question):
        command = "medldm restore data/scans data/out --scheduler"
        bash(f"{command} {known['cluster'].scheduler_address}", folder, surroundings())
        return ""

    known["input"] = enter
    try:
        exec(compile(text, "block", "exec"), known)
    finally:
        if "cluster" in known:
            known["cluster"].close()
    assert_restored(folder)


def known_to_kubernetes(pod):
    """What is left of a pod when each word that Kubernetes does not know is dropped."""
    from kubernetes import client

    api = client.ApiClient()
    return api.sanitize_for_serialization(api.deserialize(json.dumps(pod), "V1PodSpec", "application/json"))


def without_nothing(value):
    """Without fields that are None, as they are sent."""
    if isinstance(value, dict):
        return {key: without_nothing(field) for key, field in value.items() if field is not None}
    return [without_nothing(field) for field in value] if isinstance(value, list) else value


# --- a window ---------------------------------------------------------------------------------------------------------


def napari_window(text, folder, patched, run_here):
    """pip finds all that the extra asks for; the real napari opens, shows a tab for every task, and is closed."""
    install, command = text.splitlines()
    said = bash(install, folder, surroundings())
    assert "Requirement already satisfied: napari" in said
    assert "does not provide the extra" not in said
    if not os.environ.get("DISPLAY"):
        pytest.skip("napari needs a display")
    seen = folder / "seen.txt"
    bash(command, folder, surroundings(STANDINS, STANDIN_NAPARI=seen))
    every = ["Restore", "Denoise", "Super-resolve", "Fill slices", "Inpaint", "Generate", "Edit"]
    assert seen.read_text().split("\n") == every


# --- small things -----------------------------------------------------------------------------------------------------


def wheel(folder, name, module):
    """A wheel of one module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-99.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: medldm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-99-py3-none-any.whl", "w") as file:
        file.write(module, f"{name}/__init__.py")
        # Dask asks for these by name.
        file.writestr(f"{name}/buffered_pipe.py", "class PipeTimeout(Exception): ...\n")
        again = f"from {name} import SSHException\nclass PasswordRequiredException(SSHException): ...\n"
        file.writestr(f"{name}/ssh_exception.py", again)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        file.writestr(f"{info}/WHEEL", tags)
        file.writestr(f"{info}/RECORD", "")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(true):
    """Wait for something to become true; what never does is ended by the limit of pytest."""
    while not true():
        time.sleep(0.1)
