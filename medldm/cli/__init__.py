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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from medldm.cli.bids import add_bids
from medldm.cli.flags import add_settings, explain
from medldm.cli.process import find_temporary_folder, prepare
from medldm.cli.refusals import not_known, of_the_system, reworded
from medldm.errors import Cancelled, MedldmError, UsageError, place_of, shown, traced
from medldm.settings import VERBS

HELP = {
    "restore": "find out what a scan needs, say so, and do it",
    "denoise": "remove noise (MRI, CT)",
    "super-resolve": "make thin slices from thick ones, and finer planes",
    "fill-slices": "fill missing or damaged slices; measured ones stay bit for bit",
    "inpaint": "fill a region; everything outside stays bit for bit",
}
INPUT = "NIfTI file, DICOM file, folder or zip, a tree of them, or a .txt/.csv list of paths"
EXAMPLES = {
    "restore": "medldm restore scan.nii.gz restored.nii.gz\n  medldm restore dicom_folder/ restored/ --dry-run",
    "denoise": "medldm denoise scan.nii.gz denoised.nii.gz\n  medldm denoise a.nii.gz b.nii.gz denoised/ --noise 0.05",
    "super-resolve": "medldm super-resolve thick.nii.gz thin.nii.gz --spacing 1.0",
    "fill-slices": "medldm fill-slices scan.nii.gz filled.nii.gz --missing 12,13,40-44",
    "inpaint": "medldm inpaint scan.nii.gz filled.nii.gz --mask mask.nii.gz",
}
CODES = (
    "Exit codes: 0 all done, unchanged or skipped; 1 a bug in medldm; 2 wrong usage, or OUT cannot be used; 3 the "
    "input cannot be read or restored; 4 the model is unknown, damaged or unfit; 8 some of several cases failed or "
    "were refused, the machine lacks memory, or the disk is full; 130 interrupted."
)
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
        raise UsageError(f"{reworded(message)}. See `{self.prog} --help`.")


def build_parser() -> Parser:
    """All verbs and their options; loads neither torch nor NumPy."""
    parser = Parser(
        prog="medldm",
        description="Restore MRI and CT scans. Research use only: restored voxels are estimates.",
        epilog=f"`medldm VERB --help` lists the options of a verb. {CODES}",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, kind in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=HELP[name],
            description=kind.__doc__,
            epilog=f"examples:\n  {EXAMPLES[name]}",
            formatter_class=Examples,
            allow_abbrev=False,
            mixed=True,
        )
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
    words = "restore a BIDS dataset into BIDS derivatives, as a BIDS App"
    bids = verbs.add_parser("bids", help=words, description=sentence(words), allow_abbrev=False)
    add_bids(bids)
    _add_files(bids)
    _add_talk(bids)
    _add_others(verbs)
    return parser


class Examples(argparse.HelpFormatter):
    """Help texts whose examples keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def sentence(words: str) -> str:
    """A line of the list of verbs as the first line of the verb's own help."""
    return f"{words[:1].upper()}{words[1:]}."


def _add_files(verb: Any) -> None:
    group = _add_filters(verb)
    group.add_argument(
        "--format", metavar="NAME", help="format of the results: nifti, dicom, nrrd, ... (default: as the input)"
    )
    group.add_argument(
        "--volume", type=int, metavar="N", help="which volume of a 4D file or DICOM series, counted from 0"
    )
    group.add_argument(
        "--uncertainty", action="store_true", help="write the standard deviation too (needs --samples 2 or more)"
    )
    group.add_argument("--preview", action="store_true", help="write a PNG, before and after")
    group.add_argument("--report", action="store_true", help="write one HTML page for the batch, with previews")
    group.add_argument(
        "--fix",
        action="store_true",
        help="repair duplicate, irregular or tilted DICOM, and NIfTI whose sform and qform disagree",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="do finished cases again, and replace files in the place of a result"
    )
    group.add_argument(
        "--settings",
        metavar="FILE",
        help="options from the ..._medldm.json of a run, or from a JSON object; the command line counts more",
    )
    group.add_argument("--fail-fast", action="store_true", help="stop at the first case that fails or is refused")
    group.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would be done or refused, write nothing"
    )
    group.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the cases")
    group.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of processes, each with a GPU or its share of the cores (default 1; more need medldm[cluster])",
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="an existing Dask scheduler (needs medldm[cluster])")


def _add_filters(verb: Any) -> Any:
    group = verb.add_argument_group("files")
    group.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="GLOB",
        help="only files whose name or path below IN matches; may be repeated",
    )
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave out files whose name or path below IN matches; may be repeated",
    )
    return group


def _add_talk(verb: Any) -> None:
    group = verb.add_argument_group("messages")
    group.add_argument("--version", action="store_true", help="print the version")
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say more; of errors the traceback and its texts, which may quote a header",
    )
    group.add_argument("--no-progress", action="store_true", help="no progress bar")


def options_of(parser: Parser, verb: str | None) -> list[str]:
    """All options of a verb."""
    verbs = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return list((verbs.choices[verb] if verb else parser)._option_string_actions)


def _verb(verbs: Any, name: str, words: str, **options: Any) -> Any:
    return verbs.add_parser(name, help=words, description=sentence(words), **options)


def _add_others(verbs: Any) -> None:
    from medldm.settings import Restore

    inspect = _verb(verbs, "inspect", "say what a file or folder holds, and what restore would do with it", mixed=True)
    inspect.add_argument("source", metavar="IN", nargs="+", help=f"{INPUT}; several may be named")
    _add_filters(inspect)
    inspect.add_argument("--json", action="store_true", help="print JSON, for programs")
    models = _verb(verbs, "models", "list the models, or show the card of one")
    models.add_argument("name", nargs="?", metavar="NAME", help="model whose card is shown")
    models.add_argument("--json", action="store_true", help="print JSON, for programs")
    export = _verb(verbs, "export-model", "write a model as a MONAI bundle")
    export.add_argument("name", metavar="NAME", help="model card name, or path of a trained model")
    export.add_argument("out", metavar="OUT", help="new folder")
    train = _verb(verbs, "train", "train your own models on a folder of scans")
    train.add_argument(
        "kind", choices=("unet", "vae", "flow", "fusion", "all"), help="network to train; all trains them in this order"
    )
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
    train.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    benchmark = _verb(verbs, "benchmark", "degrade scans, restore them with medldm and other methods, and score")
    benchmark.add_argument("data", metavar="DATA", help="folder of NIfTI files")
    benchmark.add_argument("--quick", action="store_true", help="few scans and rows, about five minutes")
    benchmark.add_argument(
        "--out", metavar="DIR", default="benchmark_result", help="where to (default benchmark_result)"
    )
    benchmark.add_argument("--tasks", metavar="ROW,...", help="only these rows")
    benchmark.add_argument("--methods", metavar="NAME,...", help="only these methods")
    benchmark.add_argument(
        "--backbones", metavar="FILE,...", help="TorchScript networks of your own (LPIPS, RadImageNet, Inception)"
    )
    benchmark.add_argument("--split", default="test", help="split of the manifest (default test)")
    demo = _verb(verbs, "demo", "degrade the sample scan that ships with medldm, restore it, and show both")
    demo.add_argument("out", nargs="?", default="demo_result", metavar="OUT", help="folder (default demo_result)")
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    rerun = _verb(verbs, "rerun", "repeat a run from the record beside its result, and compare")
    rerun.add_argument("sidecar", metavar="SIDECAR", help="the ..._medldm.json beside a result")
    rerun.add_argument(
        "out", nargs="?", metavar="OUT", help="where to (default: over the same result, which needs --overwrite)"
    )
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
        return _guarded(words, verbose, ours=argv is None)


def _guarded(words: list[str], verbose: bool, *, ours: bool) -> int:
    try:
        if ours:  # else the process is somebody else's
            prepare()
        if "--version" in words:
            from importlib.metadata import version

            print(f"medldm {version('medldm')}")
            return 0
        parser = build_parser()
        arguments, unknown = parser.parse_known_args(words)
        if unknown:
            verb = f"medldm {arguments.verb}" if arguments.verb else "medldm"
            raise UsageError(f"{not_known(verb, unknown, options_of(parser, arguments.verb))} See `{verb} --help`.")
        if not arguments.verb:
            parser.print_help(sys.stderr)
            return 2
        _listen(arguments)
        if ours and getattr(arguments, "out", None):
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
        # The allocator's own words add nothing.
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
