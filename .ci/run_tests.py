"""Run all tests, under a virtual display where there is one: in two processes, or in one what is named.

`--quick` leaves out those that are slow or need a display or a GPU.
"""

import os
import shutil
import subprocess
import sys
import tempfile

# The pages' blocks and the command line wait much for processes that they start; so each half takes about as long.
FIRST = ("tests/docs", "tests/cli")
QUICK = ["-m", "not slow and not gui and not gpu"]


def command(arguments: list[str]) -> list[str]:
    """A pytest run, under a display of its own where there is none."""
    result = [sys.executable, "-m", "pytest", "-q", *arguments]
    if not os.environ.get("DISPLAY") and shutil.which("xvfb-run"):
        return ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *result]
    return result


def main() -> int:
    """Exit status of the tests."""
    # Every tested state of the napari widgets is left as a picture, for whoever keeps what a run leaves.
    os.environ.setdefault("MEDLDM_SCREENSHOTS", os.path.abspath(".screenshots"))
    quick = QUICK if sys.argv[1:] == ["--quick"] else []
    if sys.argv[1:] and not quick:
        return subprocess.call(command(sys.argv[1:]))
    # Two processes of as many threads as cores would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(
            command(["tests", *quick, *(f"--ignore={item}" for item in FIRST)]), stdout=said, stderr=said
        )
        status = subprocess.call(command([*quick, *FIRST]))
        status = beside.wait() or status
        said.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(said, sys.stdout.buffer)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
