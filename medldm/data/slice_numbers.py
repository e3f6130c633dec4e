"""Slice numbers as text and back; one way for the command line, napari and reports, and no torch behind it."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from medldm.errors import UsageError


def parse_slices(text: str | int | Iterable[int], count: int) -> tuple[int, ...]:
    """``"12,13,40-44"`` or numbers as slice numbers, ranges inclusive.

    Parameters
    ----------
    text : ranges like 12,13,40-44, or numbers
    count : slices of the scan

    Raises
    ------
    UsageError
        Not numbers, or beyond the scan.
    """
    ranges = slice_ranges(text)
    for first, last in ranges:
        if not 0 <= first <= last < count:
            beyond = first if not 0 <= first < count else count
            raise UsageError(f"--missing: there is no slice {beyond}, the scan has slices 0 to {count - 1}.")
    return tuple(sorted({number for first, last in ranges for number in range(first, last + 1)}))


def slice_ranges(text: str | int | Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each range, before anybody knows how many slices the scan has.

    Parameters
    ----------
    text : as of `parse_slices`

    Raises
    ------
    UsageError
        No numbers, or a range that ends before it begins.
    """
    ranges = []
    try:
        if isinstance(text, int):
            ranges = [(text, text)]
        elif isinstance(text, str):
            for word in filter(None, (part.strip() for part in text.split(","))):
                first, _, last = word.partition("-")
                ranges.append((int(first), int(last or first)))
        else:
            ranges = [(int(operator.index(number)),) * 2 for number in text]
    except (TypeError, ValueError) as problem:
        raise UsageError(f"--missing takes slice numbers like 12,13,40-44, not {text!r}.") from problem
    if not ranges:
        raise UsageError(f"--missing takes slice numbers like 12,13,40-44, not {text!r}.")
    for begin, end in ranges:
        if end < begin:
            raise UsageError(f"--missing {begin}-{end} ends before it begins. Say {end}-{begin}.")
    return ranges


def spell_slices(numbers: Iterable[int]) -> str:
    """``(44, 12, 13, 40)`` as ``"12-13,40,44"``, which `parse_slices` reads."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
