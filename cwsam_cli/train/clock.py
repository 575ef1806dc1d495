"""Decide when a run saves its state, and when it must stop to meet its time limit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cwsam_cli.config.durations import parse_duration, parse_interval
from cwsam_cli.config.schema import TrainingSettings

_MARGIN = 0.01
"""Share of the time limit kept in reserve, because the next part may take longer than any before."""


class Clock:
    """Timer of a run: measures how long its parts take and says what is due.

    Args:
        settings: the clock reads `time_limit`, counted from now, and `save_every`.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._limit = None if settings.time_limit is None else parse_duration(settings.time_limit)
        self._interval = None if settings.save_every is None else parse_interval(settings.save_every)
        self._began = self._saved = time.monotonic()
        self._steps = 0
        self._longest: dict[str, float] = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Measure the time that a part of the run takes; the longest one counts."""
        began = time.monotonic()
        yield
        self._longest[part] = max(self._longest.get(part, 0.0), time.monotonic() - began)

    def count_step(self) -> None:
        """Count one step since the last save."""
        self._steps += 1

    def restart_interval(self) -> None:
        """Start the interval until the next save."""
        self._saved, self._steps = time.monotonic(), 0

    @property
    def is_save_due(self) -> bool:
        """Whether `save_every` has passed since the last save."""
        if self._interval is None:
            return False
        if self._interval.steps is not None:
            return self._steps >= self._interval.steps
        return time.monotonic() - self._saved >= (self._interval.seconds or 0.0)

    def is_too_late_for(self, part: str, *, reserve_s: float) -> bool:
        """Check whether the time limit leaves too little time for one more part and the reserve."""
        if self._limit is None:
            return False
        left = self._began + (1 - _MARGIN) * self._limit - time.monotonic()
        return left < self._longest.get(part, 0.0) + reserve_s
