"""Slice numbers as words and back; the library's own parser lives with torch, which a widget must not load."""

from __future__ import annotations

from collections.abc import Iterable


def parse(words: str | Iterable[int], count: int) -> tuple[int, ...]:
    """``"12,13,40-44"`` as slice numbers of a scan, ranges inclusive.

    Parameters
    ----------
    words : text or numbers
    count : slices of the scan

    Raises
    ------
    ValueError
        Not numbers, or beyond the scan.
    """
    numbers: set[int] = set()
    for word in words.split(",") if isinstance(words, str) else words:
        first, _, last = str(word).strip().partition("-")
        if not first and not last:
            continue
        if not first.isdigit() or not (last or "0").isdigit():
            raise ValueError(f"Missing slices are numbers like 12,13,40-44, not {words!r}.")
        numbers |= set(range(int(first), int(last or first) + 1))
    if numbers and max(numbers) >= count:
        raise ValueError(f"There is no slice {max(numbers)}: the scan has slices 0 to {count - 1}.")
    return tuple(sorted(numbers))


def spell(numbers: Iterable[int]) -> str:
    """``(12, 13, 40, 41)`` as ``"12-13,40-41"``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
