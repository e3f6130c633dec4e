"""Do three Pythons find all that medldm needs? `python .ci/resolve.py`: pip resolves, and installs nothing."""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")


def main() -> int:
    """Ask pip for each Python."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    failed = []
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as target:
            asked = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
            asked += ["--only-binary=:all:", "--python-version", python, "--target", target]
            asked += ["--constraint", str(ROOT / "constraints.txt"), *text["dependencies"]]
            process = subprocess.run(asked, capture_output=True, text=True)
        print(python, "resolved" if process.returncode == 0 else process.stderr.strip().splitlines()[-1])
        failed += [python] * (process.returncode != 0)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
