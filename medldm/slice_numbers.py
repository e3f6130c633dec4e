"""Slice numbers as words and back; one way for the command line, napari and reports, and no torch behind it."""

from __future__ import annotations

from collections.abc import Iterable

from medldm.errors import UsageError


def parse_slices(words: str | int | Iterable[int], count: int) -> tuple[int, ...]:
    """``"12,13,40-44"`` or numbers as slice numbers, ranges inclusive.

    Parameters
    ----------
    words : text or numbers
    count : slices of the scan

    Raises
    ------
    UsageError
        Not numbers, or beyond the scan.
    """
    numbers: set[int] = set()
    try:
        if isinstance(words, int):
            numbers = {words}
        elif not isinstance(words, str):
            numbers = {int(word) for word in words}
        else:
            for word in filter(None, (part.strip() for part in words.split(","))):
                first, _, last = word.partition("-")
                several = range(int(first), int(last or first) + 1)
                if not several:
                    raise ValueError(word)
                numbers |= set(several)
            if not numbers:
                raise ValueError(words)
    except (TypeError, ValueError) as problem:
        raise UsageError(f"--missing takes slice numbers like 12,13,40-44, not {words!r}.") from problem
    beyond = sorted(number for number in numbers if not 0 <= number < count)
    if beyond:
        raise UsageError(f"--missing: there is no slice {beyond[0]}, the scan has slices 0 to {count - 1}.")
    return tuple(sorted(numbers))


def spell_slices(numbers: Iterable[int]) -> str:
    """``(44, 12, 13, 40)`` as ``"12-13,40,44"``, which `parse_slices` reads."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
