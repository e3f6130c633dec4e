"""The command line: one subcommand a task, the same names and defaults as in Python and napari.

stdout carries results, stderr everything else. No other package of medldm prints or exits.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medldm.cli.parser import build_parser, options_of
from medldm.cli.process import find_temporary_folder, prepare
from medldm.cli.refusals import not_known, of_the_system
from medldm.errors import Cancelled, MedldmError, UsageError, place_of, shown, traced

BUG = (
    "This is a bug in medldm, not your fault. Please report it with the command line and what -v prints; read that "
    "first, it may quote the header of the scan."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code is the contract of interfaces.md.

    Parameters
    ----------
    argv : arguments without the program; the process's own when not given

    Returns
    -------
    exit code
    """
    line = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in line or "--verbose" in line
    with _stopping_on_sigterm():
        return _run(line, verbose, own_process=argv is None)


def _run(line: list[str], verbose: bool, *, own_process: bool) -> int:
    try:
        if own_process:  # else another program runs us
            prepare()
        if "--version" in line:
            from importlib.metadata import version

            print(f"medldm {version('medldm')}")
            return 0
        parser = build_parser()
        arguments, unknown = parser.parse_known_args(line)
        if unknown:
            verb = f"medldm {arguments.verb}" if arguments.verb else "medldm"
            raise UsageError(f"{not_known(verb, unknown, options_of(parser, arguments.verb))} See `{verb} --help`.")
        if not arguments.verb:
            parser.print_help(sys.stderr)
            return 2
        _listen(arguments)
        if own_process and getattr(arguments, "out", None):
            find_temporary_folder(Path(arguments.out))
        from medldm.cli import verbs

        code = verbs.run(arguments)
        sys.stdout.flush()  # a full disk is said here, not by Python at exit
        return code
    except SystemExit as wish:  # --help
        return int(wish.code or 0)
    except (KeyboardInterrupt, Cancelled):
        _say("medldm: interrupted. What was finished is whole; run the same command again to go on.")
        return 130
    except BrokenPipeError:
        # Somebody closed our stdout (`| head`); nothing is wrong, and Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MedldmError as problem:
        _say(f"medldm: {shown(str(problem))}")
        if verbose:
            logging.getLogger("medldm").exception("details")
        return problem.exit_code
    except MemoryError:
        # The allocator's own text adds nothing.
        _say(
            "medldm: this needs more memory than is free. Close other programs, try --tile 192, or use a larger "
            "machine."
        )
        return 8
    except Exception as problem:
        if isinstance(problem, OSError) and (refused := of_the_system(problem)):
            _say(f"medldm: {shown(str(refused))}")
            if problem.errno == errno.ENOSPC and problem.filename is None:  # stdout: Python must not complain at exit
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return refused.exit_code
        _say(f"medldm: {shown(place_of(problem))}\n{BUG}")
        if verbose:
            logging.getLogger("medldm").exception("details")
        return 1


def _say(line: str) -> None:
    with suppress(OSError):  # a log on a full disk; the exit code says enough
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """A polite kill is an interruption: half-written files are removed, the summary says how far it came."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield  # not the main thread: whoever embeds us handles signals
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class OneLine(logging.Formatter):
    """A message is one line, whatever file names it holds; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """The message without what would steer a terminal; in a batch it says which case it is about."""
        said, case = super().formatMessage(record), getattr(record, "case", "")
        named = not case or re.search(rf"(?<!\w){re.escape(case)}(?!\w)", said)
        return shown(said if named else f"{case}: {said}")

    def formatException(self, ei: Any) -> str:  # logging's name
        """The traceback of ``-v``, with what each exception said, its lines made harmless too."""
        return "\n".join(map(shown, traced(ei[1], quoting=True).splitlines())) if ei[1] else ""


def _listen(arguments: argparse.Namespace) -> None:
    level = logging.ERROR if arguments.quiet else logging.DEBUG if arguments.verbose else logging.WARNING
    level = logging.INFO if arguments.verb == "train" and not arguments.quiet else level
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine("%(message)s"))
    if not arguments.verbose:
        warnings.simplefilter("ignore")  # of libraries, about themselves; -v shows them
    logging.getLogger("medldm").setLevel(level)
