"""Timer schedules: NCRONTAB expressions and time spans. All times are UTC."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from devkit.host.configuration import ConfigurationError, read_timespan

# The fields of an expression in their order, with their least and greatest value. 0 is Sunday.
FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 6))
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
NAMES = {name: str(number) for names, first in ((MONTHS, 1), (WEEKDAYS, 0)) for number, name in enumerate(names, first)}
LONGEST_WAIT = timedelta(days=366 * 8)  # 29 February comes this often, at the latest


@dataclass(frozen=True)
class Interval:
    """A schedule of the form 01:30:00: so long after the last time."""

    span: timedelta

    def next_after(self, moment: datetime) -> datetime:
        """Return the next occurrence after a moment."""
        return moment + self.span


@dataclass(frozen=True)
class Cron:
    """An NCRONTAB schedule: the values that each field allows, in the order of FIELDS."""

    seconds: list[int]
    minutes: list[int]
    hours: list[int]
    days: list[int]
    months: list[int]
    weekdays: list[int]

    def next_after(self, moment: datetime) -> datetime:
        """Return the first occurrence after a moment, on a full second."""
        for day in self._days(moment):
            for clock in self._clocks():
                if (occurrence := day + clock) > moment:
                    return occurrence
        raise ConfigurationError("the schedule never occurs")

    def _days(self, moment: datetime) -> Iterator[datetime]:
        """Yield the midnights of the days that the schedule allows, from the moment's day on."""
        day = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
        last = day + LONGEST_WAIT
        while day <= last:
            if day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays:
                yield day
            day += timedelta(days=1)

    def _clocks(self) -> Iterator[timedelta]:
        """Yield the times of day that the schedule allows."""
        for hour in self.hours:
            for minute in self.minutes:
                for second in self.seconds:
                    yield timedelta(hours=hour, minutes=minute, seconds=second)


type Schedule = Cron | Interval


def read_schedule(text: str) -> Schedule:
    """Return the schedule of a timer: six fields from seconds on, five from minutes on, or a time span."""
    fields = text.split()
    if len(fields) == 1 and ":" in text:
        return Interval(read_timespan(text))
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        raise ConfigurationError(f"the schedule {text!r} has {len(fields)} fields instead of 6")
    return Cron(*(_read_field(field, *limits) for field, limits in zip(fields, FIELDS, strict=True)))


def _read_field(text: str, name: str, least: int, greatest: int) -> list[int]:
    """Return the values of a field such as `*`, `5`, `1,3`, `9-17`, `*/10`, `10-50/5` or `MON-FRI`."""
    values: set[int] = set()
    for item in text.upper().split(","):
        numbers = re.sub("[A-Z]+", lambda word: NAMES.get(word[0], word[0]), item)
        match = re.fullmatch(r"(\*|(\d+)(?:-(\d+))?)(?:/(\d+))?", numbers)
        if not match:
            raise ConfigurationError(f"{item!r} is no {name} of a schedule")
        if match[1] == "*":
            first, last = least, greatest
        else:
            first = int(match[2])
            last = int(match[3]) if match[3] else greatest if match[4] else first
        if not least <= first <= last <= greatest or match[4] == "0":
            raise ConfigurationError(f"{item!r} of a schedule is not within the {name}s {least} to {greatest}")
        values.update(range(first, last + 1, int(match[4] or 1)))
    return sorted(values)


def more_often_than_once_a_minute(schedule: Schedule, now: datetime) -> bool:
    """Return whether two of the next occurrences are less than a minute apart; such a timer has no monitor."""
    occurrences = [now]
    for _ in range(6):
        occurrences.append(schedule.next_after(occurrences[-1]))
    return any(later - earlier < timedelta(minutes=1) for earlier, later in pairwise(occurrences[1:]))
