"""What the command line does to its own process before anything is loaded; a library must not."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from medldm.errors import UsageError
from medldm.system import set_thread_defaults


def prepare() -> None:
    """Streams that can be written to, whatever was closed and whatever the locale; threads that wait without spinning.

    Comes before torch, NumPy and ITK are loaded: they read the environment only then.

    Raises
    ------
    UsageError
        The current folder was removed: no relative path means anything, and MKL ends the process when it is loaded.
    """
    _open_streams()
    try:
        os.getcwd()
    except OSError as problem:
        raise UsageError("The current folder does not exist any more. Change to another one.") from problem
    set_thread_defaults(os.environ)


def find_temporary_folder(out: Path) -> None:
    """Where the system has no folder for temporary files (a read-only container), one beside the results, until exit.

    PyTorch's optimizers, Dask and zip archives each want one; nothing happens where there is one already.

    Parameters
    ----------
    out : file or folder of the results
    """
    try:
        tempfile.gettempdir()
        return
    except OSError:
        pass
    place = next((folder for folder in (out, *out.absolute().parents) if folder.is_dir()), out)
    try:
        folder = tempfile.mkdtemp(prefix=".medldm.", dir=place)
    except OSError:
        return  # no result can be written either, which is said where it is tried
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _open_streams() -> None:
    # A file that is opened later would take the number of a closed stream, and what a library prints would land in it.
    for number, access in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, access)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # by the processes that we start
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  as long as the process
    for stream in (sys.stdout, sys.stderr):
        # Where a locale has no letter for a patient's or a file's name, its number is better than an end half way.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
