"""Slice numbers: what people write is read, what is no slice is refused, and what is spelled is read again."""

import pytest

from medldm.data.slice_numbers import parse_slices, spell_slices
from medldm.errors import UsageError


@pytest.mark.parametrize(("text", "slices"), [("3", (3,)), ("1, 4-6", (1, 4, 5, 6)), ((2, 2, 0), (0, 2))])
def test_missing_slices_are_parsed(text, slices):
    assert parse_slices(text, 10) == slices


@pytest.mark.parametrize("text", ["x", "1-", "11", "-1"])
def test_missing_slices_that_are_none(text):
    if text == "1-":
        assert parse_slices(text, 10) == (1,)
        return
    with pytest.raises(UsageError, match="--missing"):
        parse_slices(text, 10)


@pytest.mark.parametrize("text", ["7-5", "", "a", [None]])
def test_slices_that_name_nothing_are_wrong_usage(text):
    with pytest.raises(UsageError, match="--missing"):
        parse_slices(text, 20)


@pytest.mark.parametrize(("text", "numbers"), [("12,13,40-42", (12, 13, 40, 41, 42)), (" 3 , 1", (1, 3)), (5, (5,))])
def test_slices_are_read(text, numbers):
    assert parse_slices(text, 50) == numbers


@pytest.mark.parametrize("text", ["a", "3-b", "-2", "50"])
def test_slices_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="slice"):
        parse_slices(text, 50)


def test_slices_read_what_they_spell():
    assert spell_slices((44, 12, 13, 40)) == "12-13,40,44"
    assert parse_slices(spell_slices((44, 12, 13, 40)), 50) == (12, 13, 40, 44)
