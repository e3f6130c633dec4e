"""Run a command as a container does: an unknown uid, an empty environment, file systems that cannot be written to.

User namespaces stand in for the container (`unshare`, util-linux). Where the kernel forbids them, tests are skipped.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import lru_cache
from pathlib import Path

import medldm

ROOT = Path(medldm.__file__).parents[1]
UID = 12345
PACKAGES = [f"PYTHONPATH={ROOT}:{ROOT / 'napari_plugin'}:{sysconfig.get_path('purelib')}"]
READ_ONLY = """
folder=$0
for place in {places}; do [ -d "$place" ] && mount --bind "$place" "$place"; done
mount --bind "$folder" "$folder"
for place in {places}; do [ -d "$place" ] && mount -o remount,bind,ro "$place"; done
cd "$CWD" || exit 99
exec unshare --user --map-user={uid} env -i PATH=/usr/bin:/bin "$@"
"""


@lru_cache(maxsize=1)
def why_impossible():
    """Why a command cannot be run as a stranger here; empty where it can."""
    if not shutil.which("unshare"):
        return "unshare is not installed"
    done = subprocess.run(
        sandbox(Path(tempfile.gettempdir()), "true"), capture_output=True, text=True, env={"CWD": "/"}
    )
    return f"user namespaces are forbidden here: {done.stderr.strip()[-200:]}" if done.returncode else ""


def containerfile(word):
    """What the last stage of the Containerfile says after a word."""
    lines = (ROOT / "Containerfile").read_text().split("\nFROM ")[-1].splitlines()
    return next(line.partition(" ")[2] for line in lines if line.startswith(f"{word} "))


def entry_point():
    """The command line that the image begins with, of the tested environment."""
    name, *more = json.loads(containerfile("ENTRYPOINT"))
    return [sys.executable, str(Path(sys.executable).parent / name), *more]


def sandbox(writable, *arguments, uid=UID):
    """A command line in which nothing but one folder, and /dev, can be written to, by nobody whom the system knows."""
    places = {ROOT, sys.prefix, sys.base_prefix, Path.home(), tempfile.gettempdir(), "/tmp", "/var", "/home", "/root"}
    listed = " ".join(f"'{place}'" for place in sorted(map(str, places), key=len))
    script = READ_ONLY.format(places=listed, uid=uid)
    return [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "bash",
        "-c",
        script,
        str(writable),
        *map(str, arguments),
    ]


def as_stranger(writable, *arguments, cwd=None, **environment):
    """Run Python with some arguments, far from any home; the finished process.

    Parameters
    ----------
    writable : the only folder that can be written to
    words : arguments for the interpreter, for instance ``"-m", "medldm", "models"``
    cwd : current folder; one that cannot be written to when not given
    environment : variables beyond PATH and where packages lie; there are no others
    """
    given = [f"{name}={value}" for name, value in environment.items()]
    command = sandbox(writable, *PACKAGES, *given, sys.executable, *arguments)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"CWD": str(cwd or tempfile.gettempdir())},
        timeout=280,
    )
