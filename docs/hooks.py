"""Pages that mkdocs makes of the code itself: the command line, the model cards, the list of decisions."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
GALLERY = "<!-- gallery: docs/benchmarks/gallery/cases.md -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the benchmark tables as they lie in their folders."""
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The failure gallery, on the page on responsible use."""
    if page.file.src_uri != "concepts/responsible-use.md":
        return markdown
    if GALLERY not in markdown:
        raise PluginError(f"{page.file.src_uri} has no place for the gallery any more.")
    return markdown.replace(GALLERY, (HERE / "benchmarks" / "gallery" / "cases.md").read_text())


def on_post_page(output: str, **_: Any) -> str:
    """Without the one script that the theme would load from elsewhere, and without dashes that nothing follows.

    The script is for searching in files opened from a disk; an error that says nothing but its name needs no dash.
    """
    output = re.sub(r'</code>\s*–\s*<div class="doc-md-description">\s*</div>', "</code>", output)
    return output.replace('<script src="https://unpkg.com/iframe-worker/shim"></script>', "")


def pages() -> dict[str, str]:
    """Name of each generated page and its Markdown."""
    return {
        "reference/cli.md": command_line(),
        "reference/tasks.md": tasks(),
        "reference/models.md": models(),
        "reference/benchmarks.md": benchmarks(),
        "decisions/index.md": decisions(),
    }


def command_line() -> str:
    """Every verb's help, from the parser."""
    os.environ["COLUMNS"] = "92"  # as much as a page shows without a scroll bar
    from medldm.cli import build_parser

    parser = build_parser()
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    lines = ["# Command line", "", "Made from the parser.", "", "```text", parser.format_help().strip(), "```"]
    for name, verb in verbs.choices.items():
        lines += ["", f"## medldm {name}", "", "```text", verb.format_help().strip(), "```"]
    return "\n".join(lines) + "\n"


def tasks() -> str:
    """Every task of the registry."""
    from medldm.tasks import TASKS

    rows = [
        f"| {task.labels.title} | {task.help} | `medldm {task.name}` | "
        f"{', '.join(sorted(need.value for need in task.needs)) or 'nothing'} | {task.keeps.value} | "
        f"`desc-{task.labels.desc}` | {', '.join(code[2] for code in task.labels.derivation) or 'of its plan'} |"
        for task in TASKS.values()
    ]
    return "\n".join(
        [
            "# Tasks",
            "",
            "Made from the registry, `medldm.tasks.TASKS`.",
            "",
            "| task | what it does | command line | needs | keeps bit for bit | BIDS | DICOM derivation |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


UNITS = {  # of validation scores, by stage
    "spread": "truth inside of the 90 % interval, %",
    "flow": "squared error of the velocity, times 100",
    "captions": "descriptions found, %",
}


def models() -> str:
    """Every shipped card."""
    from medldm.zoo import cards

    lines = [
        "# Models",
        "",
        "Made from the cards in `medldm/zoo`; `medldm models NAME` shows the whole of one. What they "
        "are for, and what is unknown about them, is described in [Responsible use](../concepts/responsible-use.md).",
    ]
    for model in sorted(cards(), key=lambda card: (card.modality != "mr", card.name != "brain-mri-2d", card.name)):
        low, high = model.spacing_mm
        lines += [
            "",
            f"## {model.name}",
            "",
            f"{model.title}.",
            "",
            f"- {model.modality.upper()}, {'planes' if model.spatial_dims == 2 else 'volumes'}, voxels of {low:g} to "
            f"{high:g} mm; {', '.join(model.verbs)}",
            f"- role: {model.role}; licence of the weights: {model.licence}; SHA-256 `{model.sha256[:16]}`",
            f"- trained for {', '.join(f'{k} {v:g} min' for k, v in model.training.get('minutes', {}).items())} on "
            f"{model.training.get('hardware', 'unknown hardware')}",
            "",
            "**Limits**",
            "",
            *(f"- {limit}" for limit in model.limits),
            "",
            "**Training subjects**",
            "",
            "| contrast and source | subjects |",
            "|---|---|",
            *(f"| {key.replace(' | ', ', ')} | {count} |" for key, count in model.training.get("subjects", {}).items()),
            "",
            "| licence of the data | subjects |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in model.training.get("licences", {}).items()),
        ]
        for what in ("ages", "sexes"):
            if known := model.training.get(what):
                lines += ["", f"| {what} | scans |", "|---|---|", *(f"| {key} | {n} |" for key, n in known.items())]
        for name, scores in model.validation.items():
            if isinstance(scores, dict):
                unit = UNITS.get(name, "PSNR in dB")
                lines += ["", f"**Validation**, {name}: {unit}", "", "| scans | |", "|---|---|"]
                lines += [f"| {row.removeprefix('coverage ')} | {value:.2f} |" for row, value in scores.items()]
        if model.use:
            lines += [
                "",
                "**How tasks use it** (`docs/benchmarks/advise.py`)",
                "",
                "| task | orientations at most | PSNR on validation scans, dB |",
                "|---|---|---|",
            ]
            for verb in model.use:
                use = model.used(verb)
                lines.append(f"| {verb} | {use.orientations} | {use.psnr if use.psnr > 0 else ''} |")
        if verbs := model.calibration.get("verbs"):
            lines += [
                "",
                "**90 % interval**: `mean +- q sqrt(s^2 + floor^2)` (see [Uncertainty](../concepts/uncertainty.md))",
                "",
                "| task | q | floor: still, noisy, far, busy |",
                "|---|---|---|",
            ]
            lines += [
                f"| {name} | {c['q']} | {c['still']}, {c['noisy']}, {c['far']}, {c['busy']} |"
                for name, c in verbs.items()
            ]
    return "\n".join(lines) + "\n"


TITLES = {
    "core": "MR: medldm, interpolation and filters",
    "lesions": "Lesions inserted into MR scans",
    "baselines": "MR noise: BM4D, DIPY, ANTs",
    "ct": "CT",
    "gates": "What samples must pass",
    "speed": "Seconds and memory",
}
BENCHMARKS = """# Benchmarks

Each table is written by the command above it, on subjects no model has seen. It can be made again from the scores
(`scores.csv`, in the repository under `docs/benchmarks`); the notebook `06_reproduce_the_tables` does so and compares.

`make tables` makes all of them from their scores, and the tables of README and docs. `make tables DATA=../shared/data`
first makes scores that are missing. If no methods are named, a baseline that is not installed is listed as not run.
`medldm benchmark ... --backbones lpips.ts,inception.ts` computes perceptual metrics from your own networks, given as
TorchScript files: a network of two images compares pairs (LPIPS), a network of one image gives features or class
probabilities (kernel distance, Frechet distance, inception score).

A **row** is a kind of damage that is done to a scan, and a **method** is what restores it:

| row | damage |
|---|---|
| `noise-3`, `noise-7` | Rician noise of 3 and 7 % of the scan's 99.5th percentile; `-blind`: the level is not given |
| `thick-4mm` | slices of 4 mm, with a Gaussian slice profile |
| `every-4th-kept`, `gap-of-3` | one slice in four measured; gaps of three slices |
| `region-20mm` | blobs of 20 mm cut out |
| `lesions-...` | bright and dark spheres inserted before the damage is done |
| `ct-dose-4`, `ct-dose-10` | a quarter and a tenth of the dose, simulated in the sinogram |
| `ct-object-...` | the same for a drawn test object, whose edges and noise can be measured |
| `drawn-noise-3`, `drawn-noise-7` | noise on a drawn head: real references carry noise of their own |

| method | what it is |
|---|---|
| `nothing`, `linear`, `cubic`, `smooth-fill` | the damaged scan; interpolation; a smooth surface over a region |
| `nlm`, `tv`, `dipy-nlm`, `bm4d...`, `ants` | filters that need no training: non-local means, total variation, BM4D; \
`-unbiased`: the Rician bias is corrected, `-stabilised`: the variance of the noise is stabilised first |
| `medldm`, `medldm-fast` | medldm as it is by default, and with the model `brain-mri-2d-fast` |
| `medldm-sample`, `medldm-mean` | one sample (`--fidelity 0`), and the mean of 8 (`--samples 8`) (sets with a flow) |
"""


def benchmarks() -> str:
    """The tables of docs/benchmarks, one after the other."""
    lines = [BENCHMARKS]
    tables = [*(HERE / "benchmarks").glob("*/table.md"), *(HERE / "benchmarks").glob("*.md")]
    names = {path: path.parent.name if path.name == "table.md" else path.stem for path in tables}
    first = ("core", "gates", "baselines", "lesions", "ct")
    for path in sorted(tables, key=lambda path: (names[path] not in first, names[path] == "speed", names[path])):
        name = names[path]
        body = "\n".join(f"#{line}" if line.startswith("#") else line for line in path.read_text().splitlines())
        heading = "" if body.startswith("## ") else f"## {TITLES.get(name, name)}\n\n"
        lines += ["", heading + body]
        for picture in sorted(path.parent.glob("*.png")) if path.name == "table.md" else []:
            lines += ["", f"![{name}](../benchmarks/{name}/{picture.name})"]
    return "\n".join(lines) + "\n"


def decisions() -> str:
    """All records, in order."""
    lines = ["# Decisions", "", "One record for each choice, with its reasons.", ""]
    for path in sorted((HERE / "decisions").glob("0*.md")):
        title = path.read_text().splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"
