"""Run all tests, under a virtual display where there is one."""

import os
import shutil
import subprocess
import sys

# Every tested state of the napari widgets is left as a picture, for whoever keeps what a run leaves.
os.environ.setdefault("MEDLDM_SCREENSHOTS", os.path.abspath(".screenshots"))
command = [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]]
if not os.environ.get("DISPLAY") and shutil.which("xvfb-run"):
    command = ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *command]
raise SystemExit(subprocess.call(command))
