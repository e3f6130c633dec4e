"""A process killed at any moment: the next run finishes the work, with the same images to the byte."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import phantoms
import pytest

CODE = """
import json, os, signal, sys, types
import medldm
from medldm import tasks
from medldm.batch import ledger, publish, steps
from medldm.data.volume import Step
MOMENT, CASE = "never", "b"

def die_at(moment, name):
    if moment == MOMENT and CASE + ".nii" in str(name):
        os.kill(os.getpid(), signal.SIGKILL)

def stub(task, volume, settings, *, mask=None, progress=None):
    die_at("network", volume.name + ".nii")
    facts = {"model": "stub", "sha256": "0", "seconds": 1.0}
    return volume.with_voxels(volume.voxels + settings.noise, step=Step(task, settings.asdict(), facts))

def before_and_after(module, name, moments, which):
    real = getattr(module, name)
    def around(*given, **options):
        die_at(moments[0], which(given))
        result = real(*given, **options)
        die_at(moments[1], which(given))
        return result
    setattr(module, name, around)

tasks.run = stub
ledger.weights_for = lambda *_: "0"
before_and_after(steps, "load", ("before reading", "after reading"), lambda given: given[0].source)
before_and_after(publish, "write_image", ("before writing", "image is staged"), lambda given: given[3])
before_and_after(publish, "write_record", ("before record", "record without image"), lambda given: given[0].image)
before_and_after(publish, "remove", ("before removing", "old image is gone"), lambda given: given[0])
import gzip
real_close = gzip.GzipFile.close
def close(file):
    if file.mode == gzip.WRITE and file.fileobj is not None:
        die_at("half a file", getattr(file.fileobj, "name", ""))
    return real_close(file)
gzip.GzipFile.close = close
from medldm.cli import main
for number, line in enumerate(sys.stdin):  # a fork for each run: to import everything anew would take seconds
    MOMENT, *arguments = json.loads(line)
    child = os.fork() if number else 0  # the first run loads the modules for all others
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    code = main(arguments)
    if number:
        os._exit(code)
    print(code, flush=True)
"""
MOMENTS = (
    "before reading",
    "after reading",
    "network",
    "half a file",
    "image is staged",
    "old image is gone",
    "record without image",
)


@pytest.fixture(scope="module")
def denoise():
    """Run a batch that kills itself at some moment of case b; gives its exit code, or the signal as a negative one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", CODE], env=environment, **pipes) as server:

        def run(moment, folder, out, noise="0.05"):
            command = [moment, "denoise", str(folder), str(out), "--noise", noise]
            server.stdin.write(json.dumps(command) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield run
        server.stdin.close()


def images(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("[a-z]*.nii.gz")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three scans in a folder."""
    folder = tmp_path_factory.mktemp("scans")
    for name in "abc":
        phantoms.save(folder / f"{name}.nii.gz", phantoms.brain((16, 16, 8)), dtype=np.int16)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tree, tmp_path_factory, denoise):
    """Images of a run that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert denoise("never", tree, out) == 0
    return images(out)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_finished_by_the_next(moment, tree, undisturbed, denoise, tmp_path):
    assert denoise(moment, tree, tmp_path) == -signal.SIGKILL
    assert "b.nii.gz" not in images(tmp_path)
    assert denoise("never", tree, tmp_path) == 0
    assert images(tmp_path) == undisturbed


@pytest.mark.parametrize("moment", ["image is staged", "old image is gone", "record without image"])
def test_a_killed_change_of_settings_is_finished_by_the_next(moment, tree, undisturbed, denoise, tmp_path):
    assert denoise("never", tree, tmp_path, noise="0.2") == 0
    assert denoise(moment, tree, tmp_path) == -signal.SIGKILL
    assert denoise("never", tree, tmp_path) == 0
    assert images(tmp_path) == undisturbed
