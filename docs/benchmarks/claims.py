"""Every number that the README's words say of a measurement, and the scores that it comes from.

`python docs/benchmarks/claims.py` compares and says what differs; `--write` puts what the scores say into the
sentences, whose other words are written by hand. A sentence with a number that nobody can derive is named too.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medldm.benchmark.ledger import read_scores
from medldm.benchmark.tables import by_subject

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = ROOT / "README.md"
CHECKED = "How good is it"  # the section in which every number is one of these, or stands in the tables
WORDS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen"),
)
RIVAL = {"noise": ("nlm",), "thick": ("cubic",), "gap": ("cubic",), "every": ("linear", "cubic")}


class Claim(NamedTuple):
    """A piece of a sentence.

    Parameters
    ----------
    words : as they stand in the README, each number that is measured written as ``{}``
    numbers : those numbers, as the scores have them
    holds : what else the words say; true where they say nothing else
    """

    words: str
    numbers: Callable[[], Sequence[str]] = lambda: ()
    holds: Callable[[], bool] = lambda: True

    def pattern(self) -> re.Pattern[str]:
        """The words in any line breaking, a group for each number."""
        pieces = [r"\s+".join(map(re.escape, re.split(r"\s+", piece))) for piece in self.words.split("{}")]
        return re.compile(r"([-+]?\d+(?:\.\d+)?|[a-z]+)".join(pieces))


@cache
def scores(name: str) -> list[dict[str, Any]]:
    """Of a folder; of the rivals those of subjects on whom every method ran."""
    found: list[dict[str, Any]] = script("quote").newest(read_scores(HERE / name / "scores.csv"))
    if name != "rivals":
        return found
    return of_all(found)


def of_all(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores of subjects that every method and row has."""
    wanted = {(score["row"], score["method"]) for score in found}
    had: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for score in found:
        had[score["subject"]].add((score["row"], score["method"]))
    return [score for score in found if had[score["subject"]] == wanted]


@cache
def script(name: str) -> Any:
    """Another script of this folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def card(name: str) -> dict[str, Any]:
    """A model card, as it is shipped."""
    found: dict[str, Any] = json.loads((ROOT / "medldm" / "zoo" / f"{name}.json").read_text())
    return found


def mean(row: str, method: str, field: str = "psnr", folder: str = "core") -> float:
    """Over subjects."""
    return float(np.mean(list(by_subject(scores(folder), row, method, field).values())))


def gain(row: str) -> float:
    """PSNR of medldm over the best of its plain rivals, dB."""
    return mean(row, "medldm") - max(mean(row, name) for name in RIVAL[re.split("-", row)[0]])


def rows(folder: str = "core") -> list[str]:
    """Of a benchmark."""
    return list(dict.fromkeys(score["row"] for score in scores(folder)))


def better(row: str, field: str, low: bool = False) -> bool:
    """Whether `--fidelity 0` is better than the default in a score."""
    difference = mean(row, "medldm-sharp", field) - mean(row, "medldm", field)
    return bool(difference < 0 if low else difference > 0)


def sharper_as_said() -> bool:
    """What the README says of `--fidelity 0` in gaps and in thick slices."""
    both = {score["row"] for score in scores("core") if score["method"] == "medldm-sharp"}
    gaps = [row for row in rows() if row.startswith(("gap", "every")) and row in both]
    thick = [row for row in rows() if row.startswith("thick") and row in both]
    energy = all(better(row, "detail_energy") for row in gaps + thick)
    correlation = all(better(row, "detail_correlation") for row in gaps) and not any(
        better(row, "detail_correlation") for row in thick
    )
    return energy and correlation and not any(better(row, "perceptual", low=True) for row in gaps + thick)


def ct(row: str, *methods: str) -> list[str]:
    """PSNR of each method, dB."""
    return [f"{mean(row, name, folder='ct'):.1f}" for name in methods]


def coverage(column: str) -> dict[str, float]:
    """Share of voxels inside the interval by a column of the scores, %."""
    with (HERE / "coverage" / "scores.csv").open(newline="") as lines:
        found = list(csv.DictReader(lines))
    names = sorted({row[column] for row in found})
    return {name: float(np.mean([float(row["coverage"]) for row in found if row[column] == name])) for name in names}


def tuning() -> list[str]:
    """DB that fine-tuning brings, and as long a training without the new scanner."""
    module = script("finetune")
    plain, tuned, control = module.means(module.read()).values()
    return [f"{tuned - plain:.2f}", f"{control - plain:.2f}"]


def speed(column: str, model: str, what: str = "denoise") -> float:
    """Of the largest volume."""
    found = [row for row in script("speed").read() if row["what"] == what and row["model"] == model]
    return float(found[-1][column])


def minutes() -> list[str]:
    """Training minutes of the U-Net, and of the whole set."""
    told = card("brain-mri-2d")["training"]["minutes"]
    return [f"{told['unet']:.0f}", f"{sum(told.values()):.0f}"]


def rivals() -> list[str]:
    """BM4D at 3 % against us, and what it is better by at 7 %."""
    three = [mean("noise-3", name, folder="rivals") for name in ("bm4d-unbiased", "medldm")]
    seven = mean("noise-7", "bm4d-unbiased", folder="rivals") - mean("noise-7", "medldm", folder="rivals")
    return [f"{three[0]:.2f}", f"{three[1]:.2f}", f"{seven:.2f}"]


def bm4d_minutes() -> list[str]:
    """Fewest and most minutes a slab, over rows and kinds of BM4D."""
    names = ("bm4d", "bm4d-unbiased", "bm4d-stabilised")
    found = [mean(row, name, "seconds", "rivals") / 60 for row in rows("rivals") for name in names]
    return [WORDS[round(min(found))], WORDS[round(max(found))]]


def many(field: str, folder: str = "core") -> str:
    """How many different values a column of the scores has, as a word."""
    return WORDS[len({str(score[field]).split("@")[0] for score in scores(folder)})]


def level_with_bm4d() -> bool:
    """Whether BM4D is neither better nor worse at 3 % than most people would see in one number."""
    return abs(mean("noise-3", "bm4d-unbiased", folder="rivals") - mean("noise-3", "medldm", folder="rivals")) < 0.3


CLAIMS = (
    Claim(
        "4 mm slices {} dB over cubic interpolation, gaps of three slices {} dB; noise of 3 % {} dB over non-local "
        "means, where BM4D does as well as we.",
        lambda: [f"{gain(row):.1f}" for row in ("thick-4mm", "gap-of-3", "noise-3")],
        level_with_bm4d,
    ),
    Claim("Test scans of {} subjects ({} sources), nobody of whom", lambda: (many("subject"), many("source"))),
    Claim(
        "Slices of 4 mm gain {} dB over cubic interpolation (1 dB was the aim), 3 mm {}, 6 mm {}; every-4th-kept {} "
        "over the better of linear and cubic, gaps of three {} (1.5 was the aim of both); noise {} and {} dB over NLM.",
        lambda: [
            f"{gain(row):.1f}"
            for row in ("thick-4mm", "thick-3mm", "thick-6mm", "every-4th-kept", "gap-of-3", "noise-3", "noise-7")
        ],
    ),
    Claim(
        "`--fidelity 0` gives fine detail more of its energy; in gaps at higher correlation, in thick slices at lower, "
        "and its perceptual distance is worse in both",
        holds=sharper_as_said,
    ),
    Claim("The U-Net had {} of the set's {} training minutes.", minutes),
    Claim(
        "PSNR in dB of HU: a quarter of the dose {} (NLM {}, TV {}, nothing {}), level unknown {} (NLM {}), a tenth {} "
        "(NLM {}).",
        lambda: [
            *ct("ct-dose-4", "medldm-ct", "nlm", "tv", "nothing"),
            *ct("ct-dose-4-blind", "medldm-ct", "nlm"),
            *ct("ct-dose-10", "medldm-ct", "nlm"),
        ],
    ),
    Claim(
        "NLM is far better ({} against {})",
        lambda: [f"{mean('ct-object-dose-4', name, folder='ct'):.0f}" for name in ("nlm", "medldm-ct")],
    ),
    Claim(
        "the 90 % interval held {} to {} % of the voxels of test subjects, by task; by contrast least often on FLAIR "
        "({} %)",
        lambda: [
            f"{share:.0f}"
            for share in (
                min(coverage("task").values()), max(coverage("task").values()), min(coverage("contrast").values()),
            )
        ],
        lambda: min(coverage("contrast"), key=lambda name: coverage("contrast")[name]) == "FLAIR",
    ),
    Claim("brings {} dB, as long a training without them {} ([table]", tuning),
    Claim(
        "On two CPU cores with AVX512-BF16 a volume of 256 x 256 x 180 is denoised in {} s, by "
        "`--model brain-mri-2d-fast` in {} s, with {} GB of memory at the peak",
        lambda: (
            f"{speed('restoring_s', 'brain-mri-2d'):.0f}", f"{speed('restoring_s', 'brain-mri-2d-fast'):.0f}",
            f"{speed('peak_gb', 'brain-mri-2d'):.1f}",
        ),
    ),
    Claim(
        "Where the CPU has AVX2 alone, a head of 160 x 213 x 230 takes {} s, and {} s",
        lambda: [str(seconds) for _, _, _, seconds, _ in script("speed").ELSEWHERE],
    ),
    Claim(
        "on the first {} test scans it reaches {} dB against our {} at 3 %, and is {} dB better at 7 %, once the "
        "Rician mean is inverted; 1 dB above it was the aim",
        lambda: (many("subject", "rivals"), *rivals()),
    ),
    Claim("{} to {} minutes a slab of 48 slices for BM4D", bm4d_minutes),
)  # fmt: skip


def wrong(text: str) -> list[str]:
    """Claims that the README does not make, or makes otherwise than the scores; numbers that nobody can derive."""
    found = []
    for claim in CLAIMS:
        said, numbers = claim.pattern().search(text), tuple(claim.numbers())
        if said is None:
            found.append(f"README.md does not say {claim.words!r} now: change docs/benchmarks/claims.py too.")
        elif said.groups() != numbers:
            found.append(f"{claim.words!r}: README.md says {said.groups()}, the scores say {numbers}.")
        if not claim.holds():
            found.append(f"{claim.words!r} is not what the scores say.")
    return found + [f"README.md says {line!r}; nobody knows where that number comes from." for line in unknown(text)]


def unknown(text: str) -> list[str]:
    """Lines of the section with numbers that no claim covers; tables, commands, links and options left aside."""
    section = text.split(f"## {CHECKED}\n")[1].split("\n## ")[0]
    for claim in CLAIMS:
        section = claim.pattern().sub("", section)
    section = re.sub(r"<!-- scores -->.*?<!-- /scores -->|```.*?```", "", section, flags=re.S)
    section = re.sub(r"`--fidelity`\s+below 1\b|`[^`]*`|\[record\s+\d+\]|\([^)]*\.md\)|\bT1w\b|\bBM4D\b", "", section)
    return [line.strip() for line in section.splitlines() if re.search(r"\d", line)]


def corrected(text: str) -> str:
    """The README with the numbers of the scores."""
    for claim in CLAIMS:
        said = claim.pattern().search(text)
        if said is None:
            continue
        for value, (start, end) in reversed(list(zip(claim.numbers(), said.regs[1:], strict=True))):
            text = text[:start] + value + text[end:]
    return text


def main() -> int:
    """Compare, or write."""
    text = README.read_text()
    if "--write" in sys.argv:
        text = corrected(text)
        README.write_text(text)
    found = wrong(text)
    print("\n".join(found) or f"{sum(len(claim.numbers()) for claim in CLAIMS)} numbers are as the scores say.")
    return len(found)


if __name__ == "__main__":
    raise SystemExit(main())
