"""What the command line does to its own process before anything is loaded; a library must not."""

from __future__ import annotations

import os
import sys

from medldm.system import set_thread_defaults


def prepare() -> None:
    """Streams that can be written to, whatever was closed and whatever the locale; threads that wait without spinning.

    Comes before torch, NumPy and ITK are loaded: they read the environment only then.
    """
    _open_streams()
    set_thread_defaults(os.environ)


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
