"""The parser: a subcommand for every task of the registry, and those for everything else."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from medldm.cli.bids import add_bids
from medldm.cli.flags import add_settings, explain
from medldm.cli.refusals import reworded
from medldm.data.description import REGIONS
from medldm.errors import UsageError
from medldm.modality import MODALITIES
from medldm.settings import Thresholds
from medldm.tasks import TASKS
from medldm.tasks.base import AnyTask, Need
from medldm.tasks.generate import GENERATE

INPUT = "NIfTI file, DICOM file, folder or zip, a tree of them, or a .txt/.csv list of paths"
CODES = (
    "Exit codes: 0 all done, unchanged or skipped; 1 a bug in medldm; 2 wrong usage, or OUT cannot be used; 3 the "
    "input cannot be read or restored; 4 the model is unknown, damaged or unfit; 8 some of several cases failed or "
    "were refused, the machine lacks memory, or the disk is full; 130 interrupted."
)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are `UsageError`.

    Parameters
    ----------
    mixed : whether options may stand between several paths, as in ``a.nii.gz --noise 0.05 b.nii.gz OUT``
    """

    def __init__(self, *arguments: Any, mixed: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mixed = mixed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Several paths: by default argparse fills them only from the first run of positional arguments."""
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
    for task in TASKS.values():
        if task is GENERATE:
            _add_generate(verbs, task)
        else:
            _add_task(verbs, task)
    bids = _verb(verbs, "bids", "restore a BIDS dataset into BIDS derivatives, as a BIDS App", allow_abbrev=False)
    add_bids(bids)
    _add_files(bids)
    _add_talk(bids)
    _add_others(verbs)
    return parser


def _add_task(verbs: Any, task: AnyTask) -> None:
    verb = verbs.add_parser(
        task.name,
        help=task.help,
        description=task.settings.__doc__,
        epilog="\n  ".join(["examples:", *task.labels.examples]) if task.labels.examples else None,
        formatter_class=Examples,
        allow_abbrev=False,
        mixed=True,
    )
    if Need.SCAN in task.needs:
        verb.add_argument("source", metavar="IN", nargs="+", help=f"{INPUT}; several may be named")
        verb.add_argument(
            "out",
            metavar="OUT",
            help="file for one scan, else a folder that mirrors the tree of IN; of several IN the tree below the "
            "folder that holds them all",
        )
    else:
        verb.add_argument("out", metavar="OUT", help="image file")
    add_settings(verb, task.settings)
    if Need.SCAN in task.needs:
        _add_files(verb)
    else:
        verb.add_argument("--overwrite", action="store_true", help="replace the result of an earlier run")
    _add_talk(verb)


def _add_generate(verbs: Any, task: AnyTask) -> None:
    verb = verbs.add_parser(
        task.name,
        help=task.help,
        description=task.settings.__doc__,
        epilog="\n  ".join(["examples:", *task.labels.examples]),
        formatter_class=Examples,
        allow_abbrev=False,
    )
    verb.add_argument("prompt", metavar="PROMPT", help='words, as in "T1w hippocampus"')
    verb.add_argument("out", metavar="OUT", help="image file; a folder for --count, or for one DICOM series")
    add_settings(verb, task.settings)
    group = verb.add_argument_group("files")
    group.add_argument("--count", type=int, metavar="N", help="N scans into the folder OUT, with seeds from --seed on")
    group.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the scans")
    group.add_argument(
        "--format", metavar="NAME", help="nifti, dicom, nrrd, ... (default: by the name of OUT, else nifti)"
    )
    group.add_argument("--overwrite", action="store_true", help="draw again what is there")
    _add_talk(verb)


class Examples(argparse.HelpFormatter):
    """Help texts whose examples keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def _add_files(verb: Any) -> None:
    group = _add_filters(verb)
    group.add_argument(
        "--format", metavar="NAME", help="format of the results: nifti, dicom, nrrd, ... (default: as the input)"
    )
    group.add_argument(
        "--volume", type=int, metavar="N", help="which volume of a 4D file or DICOM series, counted from 0"
    )
    group.add_argument(
        "--uncertainty",
        action="store_true",
        help="write the standard deviation and the half width of the calibrated 90 %% interval too",
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
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return list((verbs.choices[verb] if verb else parser)._option_string_actions)


def _verb(verbs: Any, name: str, line: str, **options: Any) -> Any:
    """A subcommand whose line in the list of verbs is also the first line of its own help."""
    return verbs.add_parser(name, help=line, description=f"{line[:1].upper()}{line[1:]}.", **options)


def _add_others(verbs: Any) -> None:
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
    train = _verb(verbs, "train", "train your own models on a folder of scans, or pack the folder into one file")
    train.add_argument(
        "kind",
        choices=("unet", "spread", "latent", "flow", "all", "generator", "pack"),
        help="network to train; all trains unet to flow in this order; generator the networks of `medldm generate`; "
        "pack writes DATA to the file OUT, to train elsewhere",
    )
    train.add_argument(
        "data", metavar="DATA", help="folder of image files, with split.csv or manifest.csv; or its pack"
    )
    train.add_argument("out", metavar="OUT", help="checkpoints, curves and the finished model; the file of pack")
    train.add_argument("--minutes", type=float, help="wall-clock minutes, resumed runs counted in")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoints in OUT")
    train.add_argument("--init", metavar="NAME|PATH", help="model to start from")
    train.add_argument(
        "--distil", metavar="NAME|PATH", help="model whose answers a network of half the operations learns (unet)"
    )
    train.add_argument(
        "--spatial-dims", type=int, choices=(2, 3), help="planes or volumes (default: those of --init, else 2)"
    )
    train.add_argument("--modality", choices=tuple(MODALITIES), help="which scans (default: those of --init, else all)")
    train.add_argument(
        "--megabytes", type=float, default=60.0, metavar="MB", help="size of the file of pack (default 60)"
    )
    train.add_argument("--region", choices=REGIONS, default="brain", help="what the scans of a generator show")
    train.add_argument(
        "--stage",
        choices=("all", "autoencoder", "flow", "decoder", "captions"),
        default="all",
        help="network of a generator (default all)",
    )
    train.add_argument("--devices", type=int, default=1, metavar="N", help="devices to train on")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    _add_benchmark(
        benchmark := _verb(
            verbs,
            "benchmark",
            "degrade scans, restore them with medldm and other methods, and score; or score a generator (--generation)",
        )
    )
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
        for knob in Thresholds.__dataclass_fields__.values()
        if knob.name.startswith(("thick", "noisy", "finest"))
    ).replace("%", "%%")


def _add_benchmark(verb: Any) -> None:
    verb.add_argument("data", metavar="DATA", help="folder of image files; for --generation with a split table")
    verb.add_argument("--quick", action="store_true", help="few scans and rows, about five minutes")
    verb.add_argument("--out", metavar="DIR", default="benchmark_result", help="where to (default benchmark_result)")
    verb.add_argument("--tasks", metavar="ROW,...", help="only these rows")
    verb.add_argument("--methods", metavar="NAME,...", help="only these methods")
    verb.add_argument(
        "--backbones", metavar="FILE,...", help="TorchScript networks of your own (LPIPS, RadImageNet, Inception)"
    )
    verb.add_argument(
        "--scans", type=int, metavar="N", help="of each modality at most N scans, of as many sources as there are"
    )
    verb.add_argument("--split", default="test", help="split of the manifest (default test)")
    verb.add_argument(
        "--generation",
        action="store_true",
        help="score samples of a generator against real scans: how real and varied they are, and whether it copies",
    )
    verb.add_argument("--model", metavar="NAME|PATH", help="generator of --generation (default: a shipped one)")
    verb.add_argument("--count", type=int, metavar="N", help="samples of --generation (default 64)")
