"""The rest of the time, by a clock of the test."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from napari_medldm.clock import LONGER, RemainingTime


def shown(clock, seconds):
    return [clock.rest(now) for now in seconds]


def test_steady_steps_are_counted_from_the_first_one_after_loading():
    clock = RemainingTime()
    clock.step(0, 10, now=0)
    assert clock.text(now=50) == ""
    clock.step(0, 10, now=100)  # the network starts
    clock.step(1, 10, now=102)
    assert clock.text(now=102) == "18 s left"
    assert shown(clock, (103, 104)) == [17, 16]
    clock.step(2, 10, now=104)
    assert clock.rest(now=104) == 16


def test_before_a_second_has_passed_nothing_is_said():
    clock = RemainingTime()
    clock.step(0, 100, now=0)
    clock.step(1, 100, now=0.1)
    assert clock.rest(now=0.5) is None
    assert clock.rest(now=1.1) is not None


def test_steps_that_take_a_little_longer_hold_the_number_and_do_not_raise_it():
    clock = RemainingTime()
    clock.step(0, 20, now=0)
    for done in range(1, 5):
        clock.step(done, 20, now=2 * done)
    assert clock.rest(now=8) == 32
    clock.step(5, 20, now=10.6)
    assert clock.finish > 40
    assert clock.rest(now=10.6) == pytest.approx(29.4)


def test_steps_that_take_twice_as_long_say_so_until_the_estimate_is_steady_again():
    clock = RemainingTime()
    clock.step(0, 30, now=0)
    now, said = 0, []
    for done in range(1, 30):
        now += 1 if done <= 5 else 6
        clock.step(done, 30, now=now)
        said.append(clock.text(now=now))
    assert said[4] == "25 s left"
    first = said.index(LONGER)
    assert 5 <= first < 10
    assert "left" in said[-1]  # it settled


def test_a_step_that_does_not_come_is_longer_than_expected_and_no_number_stands_still():
    clock = RemainingTime()
    clock.step(0, 10, now=0)
    clock.step(1, 10, now=2)
    clock.step(2, 10, now=4)
    before = shown(clock, range(4, 20))
    numbers = [rest for rest in before if rest is not None]
    assert numbers == sorted(numbers, reverse=True)
    assert clock.text(now=20) == LONGER
    assert clock.text(now=500) == LONGER


def test_another_part_of_the_run_is_measured_anew():
    clock = RemainingTime()
    for done in range(11):
        clock.step(done, 10, now=done)
    assert clock.text(now=10.5) == ""  # the last step: what follows is decoding and writing
    clock.step(0, 100, now=12)
    assert clock.rest(now=13.5) is None
    for done in range(1, 10):
        clock.step(done, 100, now=12 + 2 * done)
        clock.rest(now=12 + 2 * done)
    assert clock.rest(now=30) == pytest.approx(182, abs=5)


@given(some.lists(some.floats(0.01, 60), min_size=3, max_size=40), some.integers(1, 5))
def test_whatever_the_steps_take_a_number_never_counts_up(lengths, glances):
    """Two numbers in a row, with nothing said in between, differ by the time that has passed, at least."""
    clock, now, last = RemainingTime(), 0.0, None
    clock.step(0, len(lengths), now=0)
    for done, seconds in enumerate(lengths, 1):
        for _ in range(glances):
            now += seconds / glances
            rest = clock.rest(now)
            if rest is not None and last is not None and rest > 0:
                assert rest <= last[0] - (now - last[1]) + 1e-6
            assert rest is None or rest >= 0
            last = None if rest is None else (rest, now)
        clock.step(done, len(lengths), now=now)
