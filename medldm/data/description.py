"""What a scan is in a few words: contrast, body region, sex and age; the vocabulary that generators understand.

The vocabulary is closed: a word that is not in it is named, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from medldm.errors import UsageError

CONTRASTS = ("T1w", "T2w", "FLAIR", "T1Gd")
REGIONS = ("brain", "head", "hippocampus")
SEXES = ("female", "male")
OLDEST = 120.0  # years

# Spellings of each word; those of a contrast are compared without case, hyphen and underscore.
SPELLINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "contrast": {
        "T1w": ("t1w", "t1", "t1 weighted", "mprage"),
        "T2w": ("t2w", "t2", "t2 weighted"),
        "FLAIR": ("flair", "t2 flair"),
        "T1Gd": ("t1gd", "t1ce", "t1c", "t1 post", "t1post", "t1 gd", "contrast enhanced t1"),
    },
    "region": {
        "brain": ("brain", "skull stripped", "skullstripped", "brain only"),
        "head": ("head", "whole head"),
        "hippocampus": ("hippocampus", "hippocampi", "hippocampal"),
    },
    "sex": {
        "female": ("female", "woman", "f", "girl", "women"),
        "male": ("male", "man", "m", "boy", "men"),
    },
}
# Words that say nothing a generator could act on.
FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "with",
        "and",
        "in",
        "at",
        "age",
        "aged",
        "year",
        "years",
        "old",
        "yo",
        "scan",
        "scans",
        "image",
        "images",
        "mr",
        "mri",
        "magnetic",
        "resonance",
        "volume",
        "volumes",
        "3d",
        "human",
        "person",
        "patient",
        "weighted",
        "contrast",
        "sex",
    ]
)
AGE = re.compile(
    r"(?:\bage[d]?\s*(?:of\s*)?[:=]?\s*)?(-?\d+(?:\.\d+)?)\s*(?:-?\s*(?:years?|yrs?|y)(?:[\s-]*old|o)?\b)?"
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a scan shows; what is empty or None is not said.

    Parameters
    ----------
    contrast : name in `CONTRASTS`
    region : name in `REGIONS`; a brain has no skull, a head has all of it
    sex : name in `SEXES`
    age : years

    Raises
    ------
    UsageError
        A word that is not in the vocabulary; an age that nobody has.
    """

    contrast: str = ""
    region: str = ""
    sex: str = ""
    age: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("contrast", CONTRASTS), ("region", REGIONS), ("sex", SEXES)):
            if (value := getattr(self, name)) and value not in allowed:
                raise UsageError(f"{name} is one of {', '.join(allowed)}, not {value!r}.")
        if self.age is not None and not 0 <= self.age <= OLDEST:
            raise UsageError(f"An age of {self.age:g} makes no sense: 0 to {OLDEST:g} years.")

    def __str__(self) -> str:
        """As it is shown back: ``contrast T1w, sex female, age 34``."""
        said = [(field.name, getattr(self, field.name)) for field in fields(self)]
        parts = [
            f"{name} {value:g}" if name == "age" else f"{name} {value}" for name, value in said if value or value == 0
        ]
        return ", ".join(parts) or "anything"

    @property
    def text(self) -> str:
        """As a sentence that `parse` understands: ``T1w brain, female, 34 years``."""
        parts = [" ".join(part for part in (self.contrast, self.region) if part), self.sex]
        parts.append("" if self.age is None else f"{self.age:g} years")
        return ", ".join(part for part in parts if part)

    def filled(self, other: Description) -> Description:
        """With what this one does not say taken from another."""
        missing = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) in ("", None)}
        return replace(self, **missing)


class Parsed(NamedTuple):
    """What a prompt was understood to say.

    Parameters
    ----------
    description : of the words that were understood
    unknown : the others, as they were written
    """

    description: Description
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        """Shown back: what was understood, and what was not."""
        rest = ", ".join(repr(word) for word in self.unknown)
        return f"{self.description}; not understood: {rest}" if rest else str(self.description)


def parse(prompt: str) -> Parsed:
    """The description that words give, in any order.

    Parameters
    ----------
    prompt : as in ``"T1w brain, female, 34 years"``

    Raises
    ------
    UsageError
        Nothing said; two values for one thing; an age that nobody has.
    """
    if not prompt.strip():
        raise UsageError(f'Say what to generate, as in "T1w brain, female, 34 years". Words: {vocabulary()}.')
    text = re.sub(r"[_]|(?<=[a-z])-(?=[a-z])", " ", f" {prompt.lower()} ")
    said: dict[str, str] = {}
    for name, known in SPELLINGS.items():
        spellings = sorted(((s, word) for word, all_ in known.items() for s in all_), key=lambda pair: -len(pair[0]))
        for spelling, word in spellings:
            pattern = rf"(?<![\w.-]){re.escape(spelling).replace(chr(92) + ' ', '[ -]?')}(?![\w])"
            if re.search(pattern, text):
                if said.get(name, word) != word:
                    raise UsageError(f"The prompt asks for {name} {said[name]} and {name} {word}. Name one.")
                said[name] = word
                text = re.sub(pattern, " ", text)
    ages = []

    def taken(match: re.Match[str]) -> str:
        ages.append(float(match.group(1)))
        return " "

    text = re.sub(rf"(?<![\w.]){AGE.pattern}(?![\w.])", taken, text)
    if len(set(ages)) > 1:
        raise UsageError(f"The prompt names the ages {' and '.join(f'{age:g}' for age in ages)}. Name one.")
    rest = [
        word for word in re.findall(r"[^\s,;:()/]+", text) if word.strip(".-!?") not in FILLERS and word.strip(".-!?")
    ]
    return Parsed(Description(**said, age=ages[0] if ages else None), tuple(word.strip(".-!?") for word in rest))


def vocabulary() -> str:
    """All words, for help texts and errors."""
    return "; ".join(
        [*(f"{name} {', '.join(known)}" for name, known in SPELLINGS.items()), f"age 0 to {OLDEST:g} years"]
    )
