"""Memory and cores are those of the control group, in both versions of its interface; threads wait passively."""

import os
import subprocess
import sys

import psutil
import pytest

from medldm import system

GIB = 2**30
UNLIMITED = "9223372036854771712\n"  # what version 1 says


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Files that a kernel would show, of a machine with 64 GiB and 16 cores, to be written by the test."""
    monkeypatch.setattr(system, "ROOT", tmp_path)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GIB, "total": 64 * GIB})
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))

    return write


V2 = {
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
    "proc/self/cgroup": "0::/\n",
}
V1 = {
    "proc/self/mountinfo": (
        "31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
        "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
        "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    ),
    "proc/self/cgroup": "9:memory:/jobs/mine\n4:cpu,cpuacct:/jobs/mine\n0::/\n",
}
MEMORY = "sys/fs/cgroup/memory"
CPU = "sys/fs/cgroup/cpu,cpuacct"


def test_without_limits_the_machine_counts(kernel):
    assert (system.free_bytes(), system.cores()) == (64 * GIB, 16)  # no control groups at all, as on a Mac
    kernel(V2 | {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert (system.free_bytes(), system.cores()) == (64 * GIB, 16)


def test_a_container_with_limits(kernel):
    top = "sys/fs/cgroup/"
    kernel(V2 | {f"{top}memory.max": 4 * GIB, f"{top}memory.current": 3 * GIB, f"{top}cpu.max": "200000 100000\n"})
    assert (system.free_bytes(), system.cores()) == (GIB, 2)
    # What is cached of files counts as used, and is given back.
    kernel({f"{top}memory.stat": f"anon 1\ninactive_file {GIB // 2}\n"})
    assert system.free_bytes() == GIB * 3 // 2
    kernel({f"{top}memory.current": 6 * GIB})
    assert system.free_bytes() == 0


@pytest.mark.parametrize(
    ("quota", "expected"), [(10_000, 1), (100_000, 1), (150_000, 2), (250_000, 3), (9_999_999, 16)]
)
def test_a_part_of_a_core_is_one_more_thread(kernel, quota, expected):
    kernel(V2 | {"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert system.cores() == expected


def test_the_smallest_limit_of_nested_groups_holds(kernel):
    job = "sys/fs/cgroup/slurm/job/step"
    kernel(
        V2
        | {
            "proc/self/cgroup": "0::/slurm/job/step\n",
            f"{job}/memory.max": "max\n",
            f"{job}/memory.current": GIB,
            "sys/fs/cgroup/slurm/job/memory.max": 8 * GIB,
            "sys/fs/cgroup/slurm/job/memory.current": 2 * GIB,
            "sys/fs/cgroup/slurm/memory.max": 9 * GIB,
            "sys/fs/cgroup/slurm/memory.current": 4 * GIB,
            f"{job}/cpu.max": "800000 100000",
            "sys/fs/cgroup/slurm/cpu.max": "300000 100000",
        }
    )
    assert (system.free_bytes(), system.cores()) == (5 * GIB, 3)


def test_memory_that_is_slowed_down_is_not_free(kernel):
    top = "sys/fs/cgroup/"
    kernel(V2 | {f"{top}memory.max": 8 * GIB, f"{top}memory.high": 2 * GIB, f"{top}memory.current": GIB})
    assert system.free_bytes() == GIB


def test_version_one_with_controllers_that_share_a_folder(kernel):
    kernel(
        V1
        | {
            f"{MEMORY}/jobs/mine/memory.limit_in_bytes": UNLIMITED,
            f"{MEMORY}/jobs/mine/memory.usage_in_bytes": GIB,
            f"{MEMORY}/jobs/memory.limit_in_bytes": 3 * GIB,
            f"{MEMORY}/jobs/memory.usage_in_bytes": 2 * GIB,
            f"{MEMORY}/jobs/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB // 4}\n",
            f"{CPU}/jobs/mine/cpu.cfs_quota_us": "-1\n",
            f"{CPU}/jobs/mine/cpu.cfs_period_us": "100000\n",
            f"{CPU}/jobs/cpu.cfs_quota_us": "350000\n",
            f"{CPU}/jobs/cpu.cfs_period_us": "100000\n",
        }
    )
    assert (system.free_bytes(), system.cores()) == (GIB * 5 // 4, 4)


@pytest.mark.parametrize("shown", ["/docker/abc", "/../../elsewhere", "/somewhere/else", "/"])
def test_a_container_that_is_mounted_without_what_is_above_it(kernel, shown):
    top = "/docker/abc" if shown == "/docker/abc" else "/"
    mount = f"31 30 0:27 {top} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    kernel(
        {
            "proc/self/mountinfo": mount,
            "proc/self/cgroup": f"9:memory:{shown}\n",
            f"{MEMORY}/memory.limit_in_bytes": 2 * GIB,
            f"{MEMORY}/memory.usage_in_bytes": GIB,
        }
    )
    assert system.free_bytes() == GIB


def test_affinity_and_quota_meet(kernel, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    kernel(V2 | {"sys/fs/cgroup/cpu.max": "400000 100000\n"})
    assert system.cores() == 1


@pytest.mark.parametrize("nonsense", ["", "max", "0 100000", "-1 100000", "100000 0", "words here", "\x00"])
def test_what_cannot_be_understood_limits_nothing(kernel, nonsense):
    kernel(V2 | {"sys/fs/cgroup/cpu.max": nonsense, "sys/fs/cgroup/memory.max": nonsense})
    kernel({"sys/fs/cgroup/memory.current": "1"})
    assert (system.free_bytes(), system.cores()) == (64 * GIB, 16)


def test_the_real_kernel_is_understood():
    assert 0 < system.free_bytes() <= psutil.virtual_memory().total
    assert 1 <= system.cores() <= (os.cpu_count() or 1)


def test_threads_wait_passively_and_are_as_many_as_the_quota_allows(kernel):
    own = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5"}
    environment = {}
    system.set_thread_defaults(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}  # the libraries see the cores of the machine themselves
    kernel(V2 | {"sys/fs/cgroup/cpu.max": "300000 100000\n"})
    system.set_thread_defaults(environment)
    assert environment["OMP_NUM_THREADS"] == environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "3"
    kernel({"sys/fs/cgroup/cpu.max": "1200000 100000\n"})
    environment.clear()
    system.set_thread_defaults(environment)
    assert environment["OMP_NUM_THREADS"] == "8"  # cores, not hyperthreads
    system.set_thread_defaults(own)
    assert {name: own[name] for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")} == {
        "OMP_WAIT_POLICY": "ACTIVE",
        "OMP_NUM_THREADS": "5",
    }


def test_workers_share_the_cores_of_the_control_group(kernel, monkeypatch):
    pytest.importorskip("distributed")
    from medldm.batch.dask_cluster import environments

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    kernel(V2 | {"sys/fs/cgroup/cpu.max": "600000 100000\n"})
    assert [place["OMP_NUM_THREADS"] for place in environments(3, "cpu")] == ["2"] * 3
    assert {place["OMP_WAIT_POLICY"] for place in environments(3, "cpu")} == {"PASSIVE"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the user's word
    assert [place["OMP_NUM_THREADS"] for place in environments(3, "cpu")] == ["1"] * 3


@pytest.mark.slow
def test_the_limit_reaches_every_question(kernel, tmp_path):
    from medldm.batch.forecast import check_memory
    from medldm.errors import ResourceError
    from medldm.inference.device import fitted_tile
    from medldm.io.checks import must_fit

    large = fitted_tile("cpu", 3)
    top = "sys/fs/cgroup/"
    kernel(V2 | {f"{top}memory.max": 2 * GIB, f"{top}memory.current": GIB})
    with pytest.raises(ResourceError, match=r"1\.0 GiB are free"):
        check_memory("a scan", 100_000_000)
    with pytest.raises(ResourceError, match=r"1\.0 GiB of memory are free"):
        must_fit(GIB, tmp_path)
    assert fitted_tile("cpu", 3) < large


def said(code, **environment):
    place = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=place | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_only_the_command_line_sets_its_own_process():
    ask = "import os, sys; {}; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    assert said(ask.format("import medldm, medldm.cli")) == ["None", "False"]
    assert said(ask.format("from medldm.cli import main; main(['models'])"))[-2:] == ["None", "False"]
    ours = "from medldm.cli import main; sys.argv = ['medldm', 'models']; main()"
    assert said(ask.format(ours))[-2:] == ["PASSIVE", "False"]
    assert said(ask.format(ours), OMP_WAIT_POLICY="ACTIVE")[-2:] == ["ACTIVE", "False"]


def test_nobody_else_asks_the_machine():
    from pathlib import Path

    import medldm

    asking = [
        path.name
        for path in Path(medldm.__file__).parent.rglob("*.py")
        if any(word in path.read_text() for word in ("virtual_memory", "cpu_count", "sched_getaffinity"))
    ]
    assert asking == ["system.py"]
