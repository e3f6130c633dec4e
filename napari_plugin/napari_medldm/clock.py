"""The rest of a run's time: a number that only falls, or none."""

from __future__ import annotations

import time

from napari_medldm.text import duration

AWAKE_S = 1.0  # before this the rest of the time is a guess not worth saying
NEW = 0.3  # weight of the newest step in what is smoothed
GROWN = 1.25  # an estimate that grew by more than this is another one
SLACK_S = 3.0  # but none that grew by less than this
SETTLED = 3  # steps in a row that changed the estimate by less than a tenth
LONGER = "longer than expected"


class RemainingTime:
    """How long a run will still take, by how long its steps took so far.

    The estimate is smoothed. What is shown falls with the clock, or faster. Where the estimate grows a little, what is
    shown waits for it; where it grows by more than a quarter, no number is shown until the estimate is steady again.
    """

    def __init__(self) -> None:
        self.begun: float | None = None
        self.first = self.done = self.total = 0
        self.at = self.per_step = 0.0  # when the last step ended, and how long steps take; seconds
        self.finish: float | None = None  # when the run will end, smoothed
        self.shown: float | None = None  # the same, as it was shown last
        self.longer = False
        self.steady = 0

    def step(self, done: int, total: int, now: float | None = None) -> None:
        """Take note of progress.

        Parameters
        ----------
        done, total : steps
        now : seconds, monotonic
        """
        now = time.monotonic() if now is None else now
        if done <= 0 or self.begun is None or done < self.done:
            # The network starts now; what went before was loading, or another part of the run.
            self.begun = self.at = now
            self.first = self.done = max(0, done)
            self.per_step, self.finish, self.steady = 0.0, None, 0
        elif done > self.done:
            # The mean at first; then what was long ago counts less and less.
            weight = max(NEW, (done - self.done) / (done - self.first))
            self.per_step += weight * ((now - self.at) / (done - self.done) - self.per_step)
            self.done, self.total, self.at = done, total, now
            estimate = now + self.per_step * (total - done)
            before = estimate if self.finish is None else self.finish
            self.finish = before + NEW * (estimate - before)
            same = abs(self.finish - before) <= max(0.1 * (self.finish - now), SLACK_S / 2)
            self.steady = self.steady + 1 if same else 0

    def rest(self, now: float | None = None) -> float | None:
        """Seconds left; None while no honest number is known, and at the last step.

        Parameters
        ----------
        now : seconds, monotonic
        """
        now = time.monotonic() if now is None else now
        if self.finish is None or self.begun is None or now - self.begun <= AWAKE_S or self.done >= self.total:
            return None
        late = max(0.0, now - self.at - self.per_step)  # a step that does not come moves the end
        finish = self.finish + late
        if self.longer and (self.steady < SETTLED or late > SLACK_S):
            return None
        if self.shown is not None and not self.longer:
            left, shown = finish - now, max(0.0, self.shown - now)
            if left > GROWN * shown and left > shown + SLACK_S:
                self.longer, self.steady = True, 0
                return None
            finish = min(finish, self.shown)
        self.longer, self.shown = False, finish
        return max(0.0, finish - now)

    def text(self, now: float | None = None) -> str:
        """``"2 min 5 s left"``, ``"longer than expected"``, or nothing while nothing is known.

        Parameters
        ----------
        now : seconds, monotonic
        """
        rest = self.rest(now)
        if rest is None:
            return LONGER if self.longer else ""
        return f"{duration(rest)} left"
