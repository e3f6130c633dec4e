"""The command line: one verb a task, the same names and defaults as in Python and napari.

stdout carries results, stderr everything else. Only this room speaks and exits.
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
from contextlib import contextmanager
from typing import Any, NoReturn

from medldm.cli.bids import add_bids
from medldm.cli.flags import add_settings, explain
from medldm.errors import (
    Cancelled,
    InputError,
    MedldmError,
    ResourceError,
    UsageError,
    place_of,
    shown,
    traced,
)
from medldm.settings import VERBS

HELP = {
    "restore": "look at the scan, say a plan, and do what it needs",
    "denoise": "remove noise (MRI, CT)",
    "super-resolve": "thick slices to thin ones, finer planes",
    "fill-slices": "fill missing or damaged slices; measured ones stay bit for bit",
    "inpaint": "fill a region; everything outside stays bit for bit",
}
INPUT = "NIfTI file, DICOM file, folder or zip, a tree of them, or a .txt/.csv list of paths"
# What a file system says of a place that was named, and no mistake of ours; what helps.
PLACES = {
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EACCES: "Check its permissions.",
    errno.EPERM: "Check its permissions.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENOTDIR: "Check the path.",
    errno.ELOOP: "Its links lead in a circle.",
}
# What a disk or a network says that failed.
FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN)
BUG = (
    "This is a bug in medldm, not your fault. Please report it with the command line and what -v prints; read that "
    "first, it may quote the header of the scan."
)


class Parser(argparse.ArgumentParser):
    """argparse, but errors are ours.

    Parameters
    ----------
    mixed : whether options may stand between several paths, as in ``a.nii.gz --noise 0.05 b.nii.gz OUT``
    """

    def __init__(self, *words: Any, mixed: bool = False, **options: Any) -> None:
        super().__init__(*words, **options)
        self.mixed = mixed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Several paths: argparse fills them from paths the first run of words only, unless told otherwise."""
        if not self.mixed:
            return super().parse_known_args(args, namespace)
        self.mixed = False  # it comes back here
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixed = True

    def error(self, message: str) -> NoReturn:
        """Wrong usage: a sentence, and where to read on."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.")


def build_parser() -> Parser:
    """All verbs and their options; loads neither torch nor NumPy."""
    parser = Parser(
        prog="medldm", description="Restore MRI and CT scans. Research use only: restored voxels are estimates."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, kind in VERBS.items():
        verb = verbs.add_parser(name, help=HELP[name], description=kind.__doc__, allow_abbrev=False, mixed=True)
        verb.add_argument("source", metavar="IN", nargs="+", help=f"{INPUT}; several may be named")
        verb.add_argument(
            "out",
            metavar="OUT",
            help="file for one scan, else a folder that mirrors the tree of IN; of several IN the tree below the "
            "folder that holds them all",
        )
        add_settings(verb, kind)
        _add_files(verb)
        _add_talk(verb)
    bids = verbs.add_parser("bids", help="a BIDS dataset to BIDS derivatives, as BIDS apps do", allow_abbrev=False)
    add_bids(bids)
    _add_files(bids)
    _add_talk(bids)
    _add_others(verbs)
    return parser


def _add_files(verb: Any) -> None:
    group = _add_filters(verb)
    group.add_argument("--format", choices=("nifti", "dicom"), help="format of the results (default: as the input)")
    group.add_argument("--volume", type=int, metavar="N", help="which volume of a 4D file, counted from 0")
    group.add_argument(
        "--uncertainty", action="store_true", help="write the standard deviation too (needs --samples 2 or more)"
    )
    group.add_argument("--preview", action="store_true", help="write a PNG, before and after")
    group.add_argument("--report", action="store_true", help="write one HTML page for the batch, with previews")
    group.add_argument("--fix", action="store_true", help="repair duplicate, irregular or tilted DICOM")
    group.add_argument("--overwrite", action="store_true", help="replace results that are there")
    group.add_argument(
        "--settings", metavar="FILE", help="take what is not said here from a ..._medldm.json, or from JSON of options"
    )
    group.add_argument("--fail-fast", action="store_true", help="stop at the first case that fails")
    group.add_argument("--dry-run", action="store_true", help="say what would be done")
    group.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the cases")
    group.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one a device (needs medldm[cluster])"
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="an existing Dask scheduler (needs medldm[cluster])")


def _add_filters(verb: Any) -> Any:
    group = verb.add_argument_group("files")
    group.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="only files that match; may be repeated"
    )
    group.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files that match; may be repeated"
    )
    return group


def _add_talk(verb: Any) -> None:
    group = verb.add_argument_group("talk")
    group.add_argument("--version", action="store_true", help="print the version")
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="say more; tracebacks of errors")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")


def _add_others(verbs: Any) -> None:
    from medldm.settings import Restore

    inspect = verbs.add_parser("inspect", help="what is there, and what medldm would do about it", mixed=True)
    inspect.add_argument("source", metavar="IN", nargs="+", help=f"{INPUT}; several may be named")
    _add_filters(inspect)
    inspect.add_argument("--json", action="store_true", help="for programs")
    models = verbs.add_parser("models", help="the model cards")
    models.add_argument("name", nargs="?", metavar="NAME")
    models.add_argument("--json", action="store_true", help="for programs")
    export = verbs.add_parser("export-model", help="a model as a MONAI bundle")
    export.add_argument("name", metavar="NAME", help="model card name, or path of a trained model")
    export.add_argument("out", metavar="OUT", help="new folder")
    train = verbs.add_parser("train", help="train your own models on a folder of scans")
    train.add_argument("kind", choices=("unet", "vae", "flow", "fusion", "all"))
    train.add_argument("data", metavar="DATA", help="folder of NIfTI files, with split.csv or manifest.csv")
    train.add_argument("out", metavar="OUT", help="checkpoints, curves and the finished model")
    train.add_argument("--minutes", type=float, required=True, help="wall-clock minutes, resumed runs counted in")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoints in OUT")
    train.add_argument("--init", metavar="NAME|PATH", help="model to start from")
    train.add_argument(
        "--spatial-dims", type=int, choices=(2, 3), help="planes or volumes (default: those of --init, else 2)"
    )
    train.add_argument("--devices", type=int, default=1, metavar="N", help="devices to train on")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--seed", type=int, default=0)
    benchmark = verbs.add_parser("benchmark", help="degrade, restore with us and with the rivals, score")
    benchmark.add_argument("data", metavar="DATA")
    benchmark.add_argument("--quick", action="store_true", help="few scans and rows, about five minutes")
    benchmark.add_argument("--out", metavar="DIR", default="benchmark_result")
    benchmark.add_argument("--tasks", metavar="ROW,...", help="only these rows")
    benchmark.add_argument("--methods", metavar="NAME,...", help="only these methods")
    benchmark.add_argument(
        "--backbones", metavar="FILE,...", help="TorchScript networks of your own (LPIPS, RadImageNet, Inception)"
    )
    benchmark.add_argument("--split", default="test", help="split of the manifest (default test)")
    demo = verbs.add_parser("demo", help="the main job on the sample scan that ships with medldm")
    demo.add_argument("out", nargs="?", default="demo_result", metavar="OUT")
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    rerun = verbs.add_parser("rerun", help="repeat a run from its record")
    rerun.add_argument("sidecar", metavar="SIDECAR")
    rerun.add_argument("out", nargs="?", metavar="OUT", help="where to (default: the same result, with --overwrite)")
    rerun.add_argument("--overwrite", action="store_true", help="replace the result")
    for verb in (inspect, models, export, train, benchmark, demo, rerun):
        _add_talk(verb)
    inspect.epilog = "Thresholds of the plan: " + "; ".join(
        explain(knob)
        for knob in Restore.__dataclass_fields__.values()
        if knob.name.startswith(("thick", "noisy", "finest"))
    ).replace("%", "%%")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code is the contract of interfaces.md.

    Parameters
    ----------
    argv : arguments without the program; the process's own when not given

    Returns
    -------
    exit code
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in words or "--verbose" in words
    with _stopping_on_sigterm():
        return _guarded(words, verbose)


def _guarded(words: list[str], verbose: bool) -> int:
    try:
        if "--version" in words:
            from importlib.metadata import version

            print(f"medldm {version('medldm')}")
            return 0
        parser = build_parser()
        arguments, unknown = parser.parse_known_args(words)
        if unknown:
            help_of = f"medldm {arguments.verb}" if arguments.verb else "medldm"
            raise UsageError(f"Unrecognized arguments: {' '.join(unknown)}. See `{help_of} --help`.")
        if not arguments.verb:
            parser.print_help(sys.stderr)
            return 2
        _listen(arguments)
        from medldm.cli import verbs

        return verbs.run(arguments)
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
        # The allocator's own words add nothing.
        _say(
            "medldm: this needs more memory than is free. Close other programs, try --tile 192, or use a larger "
            "machine."
        )
        return 8
    except Exception as problem:
        if isinstance(problem, OSError) and (refused := of_the_system(problem)):
            _say(f"medldm: {shown(str(refused))}")
            return refused.exit_code
        _say(f"medldm: {shown(place_of(problem))}\n{BUG}")
        if verbose:
            logging.getLogger("medldm").exception("details")
        return 1


def of_the_system(problem: OSError) -> MedldmError | None:
    """What a file system refused, as a sentence; None for what may be a mistake of ours.

    Parameters
    ----------
    problem : raised outside of where results are written, which has sentences of its own
    """
    from medldm.io.atomic import FULL  # which loads NumPy, and `--help` should not

    place = os.fsdecode(problem.filename) if isinstance(problem.filename, str | bytes | os.PathLike) else ""
    if problem.errno in FULL:
        return ResourceError(
            f"The disk is full{f': {place} was not written' * bool(place)}. Free some space, then run it again."
        )
    if problem.errno in FAILING:
        return InputError(
            f"{place or 'A file'} cannot be read or written: {problem.strerror}. Check the disk or network."
        )
    if problem.errno in PLACES and place:
        return UsageError(f"{place} cannot be used: {problem.strerror}. {PLACES[problem.errno]}")
    return None


def _say(line: str) -> None:
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
        told = not case or re.search(rf"(?<!\w){re.escape(case)}(?!\w)", said)
        return shown(said if told else f"{case}: {said}")

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
