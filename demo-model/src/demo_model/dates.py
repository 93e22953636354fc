"""Dates in plain English, relative to a given day.

A weekday is the next such day after today; "this Friday" may be today; "next Friday" is the Friday of the week that
begins on the next Monday, and "next week" is that Monday. A day without a year is its next occurrence. `12/25` is read
only where just one reading is a date. A date that does not exist is no date.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import date, timedelta

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_COUNTS = {
    word: number
    for number, words in enumerate(
        ("", "a an one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
    for word in words.split()
} | {"a couple of": 2, "couple of": 2, "a few": 3}
_UNIT_DAYS = {"day": 1, "week": 7, "fortnight": 14}
_COUNT_MAX = 3650  # "in 99999999 years" is no date

COUNT = r"(?:\d{1,4}|(?:a\s+)?couple\s+of|a\s+few|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_WEEKDAY = (
    r"(?:mon(?:day)?|tue(?:s(?:day)?)?|wed(?:nesday)?|thu(?:r(?:s(?:day)?)?)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)"
)
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_DATE = re.compile(
    rf"""(?<![\w'-])
    (?P<lead>(?:(?:which|that)\s+)?(?:is\s+|are\s+|all\s+)?(?:due(?:\s+date)?|deadline)(?:\s+(?:is|on|by|for|until|of))?:?\s+
        |(?:no\s+later\s+than|by|on|until|till|before|for)\s+)?
    (?:
      (?P<iso>\d{{4}}-\d{{1,2}}-\d{{1,2}})
      |(?P<after>(?:the\s+)?day\s+after\s+tomorrow)
      |(?P<near>today|tonight|this\s+(?:morning|afternoon|evening)|tomorrow|tmrw|tomorow|tommorow|tommorrow)
      |in\s+(?P<in_count>{COUNT})\s+(?P<in_unit>day|week|fortnight|month|year)s?(?:'?\s+time)?
      |(?P<from_count>{COUNT})\s+(?P<from_unit>day|week|fortnight|month|year)s?\s+from\s+(?:now|today)
      |(?P<late_weekday>{_WEEKDAY})\s+next\s+week
      |(?P<period>(?:the\s+)?end\s+of\s+(?:the\s+|this\s+|next\s+)?(?:day|week|month|year)
        |(?:this|next|the)\s+weekend|(?:next|this)\s+(?:week|month|year))
      |(?:the\s+)?(?:(?P<which>this|next|coming)\s+(?:coming\s+)?)?(?P<weekday>{_WEEKDAY})
      |(?P<month1>{_MONTH})\.?\s+(?:the\s+)?(?P<day1>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<year1>\d{{4}}))?
      |(?:the\s+)?(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month2>{_MONTH})(?:,?\s+(?P<year2>\d{{4}}))?
      |the\s+(?P<nth>\d{{1,2}})(?:st|nd|rd|th)
      |(?P<day3>\d{{1,2}})\.(?P<month3>\d{{1,2}})\.(?P<year3>\d{{4}})?
      |(?P<slash1>\d{{1,2}})/(?P<slash2>\d{{1,2}})(?:/(?P<slash_year>\d{{4}}))?
    )
    (?:\s+(?:morning|afternoon|evening|night))?(?:\s+at\s+the\s+latest)?
    (?![\w'/-])""",
    re.IGNORECASE | re.VERBOSE,
)
_ONLY_TIME_FOLLOWS = re.compile(
    r"[\s,;.!?)]*(?:(?:at|around|by)?\s*\d{1,2}(?::\d{2})?\s*(?:am|pm|h|o'clock)?[\s.!?]*)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Found:
    """A date in a text and the characters that say it, lead-in ("due", "by", "on") included."""

    day: date
    start: int
    end: int


def find(text: str, today: date) -> Found | None:
    """The date that a task's text carries: one with a lead-in, else one at the end, else one at the start.

    A bare date word in the middle ("plan the Sunday dinner") belongs to the title.
    """
    matches = [(match, day) for match in _DATE.finditer(text) if (day := _day(match, today)) is not None]
    introduced = [pair for pair in matches if pair[0]["lead"] or pair[0]["in_count"]]
    at_end = [pair for pair in matches if _ONLY_TIME_FOLLOWS.fullmatch(text, pair[0].end())]
    at_start = [pair for pair in matches if not text[: pair[0].start()].strip()]
    for candidates in (introduced, at_end, at_start):
        if candidates:
            match, day = candidates[-1]
            return Found(day, match.start(), match.end())
    return None


def at_end(text: str, today: date) -> Found | None:
    """The date with which the text ends."""
    for match in _DATE.finditer(text):
        if match.end() == len(text.rstrip(" .!?")) and (day := _day(match, today, anywhere=True)) is not None:
            return Found(day, match.start(), match.end())
    return None


def whole(text: str, today: date) -> date | None:
    """The date, where the text says nothing else."""
    match = _DATE.fullmatch(text.strip(" .!?"))
    return _day(match, today, anywhere=True) if match else None


def count_of(word: str) -> int:
    """The number that a match of `COUNT` says."""
    word = " ".join(word.lower().split())
    return int(word) if word.isdigit() else _COUNTS[word]


def days_of(count: str, unit: str) -> int:
    """A span in days; a month counts 30 days and a year 365."""
    return count_of(count) * (_UNIT_DAYS | {"month": 30, "year": 365})[unit.lower()]


def say(day: date) -> str:
    """The date as answers say it: "Friday, 27 November 2026", in English whatever the locale."""
    return f"{calendar.day_name[day.weekday()]}, {day.day} {calendar.month_name[day.month]} {day.year}"


def _day(match: re.Match[str], today: date, *, anywhere: bool = False) -> date | None:
    """The day that a match means, or None. `anywhere`: the place vouches for it, so "sat" and "the 3rd" are dates."""
    said = match.groupdict()
    vouched = anywhere or bool(said["lead"])
    try:
        if said["weekday"] and (vouched or said["which"] or said["weekday"].lower().endswith("day")):
            return _weekday(said["weekday"], said["which"], today)
        if said["nth"] and vouched:
            return _next_day_of_month(int(said["nth"]), today)
        return None if said["weekday"] or said["nth"] else _plain_day(said, today)
    except (ValueError, OverflowError):
        return None  # 30 February, the year 12000


def _plain_day(said: dict[str, str | None], today: date) -> date | None:
    """The day in all forms that mean the same wherever they stand."""
    if weekday := said["late_weekday"]:
        return _weekday(weekday, "next", today)
    if period := said["period"]:
        return _period(period.lower(), today)
    return _near_day(said, today) or _calendar_day(said, today)


def _near_day(said: dict[str, str | None], today: date) -> date | None:
    if said["after"]:
        return today + timedelta(days=2)
    if near := said["near"]:
        return today + timedelta(days=1 if near.lower().startswith(("tom", "tmrw")) else 0)
    for count, unit in ((said["in_count"], said["in_unit"]), (said["from_count"], said["from_unit"])):
        if count and unit:
            return _later(today, count_of(count), unit.lower())
    return None


def _calendar_day(said: dict[str, str | None], today: date) -> date | None:
    if iso := said["iso"]:
        year, month, day = (int(part) for part in iso.split("-"))
        return date(year, month, day)
    for index in "12":
        name, named_day = said[f"month{index}"], said[f"day{index}"]
        if name and named_day:
            return _in_year(said[f"year{index}"], _MONTHS.index(name[:3].lower()) + 1, int(named_day), today)
    if said["day3"] and said["month3"]:
        return _in_year(said["year3"], int(said["month3"]), int(said["day3"]), today)
    return _slashed_day(int(said["slash1"] or 0), int(said["slash2"] or 0), said["slash_year"], today)


def _slashed_day(one: int, other: int, year: str | None, today: date) -> date | None:
    """12/25 and 25/12, but not 3/4: there one half of the world would be surprised."""
    months = len(_MONTHS)
    if min(one, other) > months or (max(one, other) <= months and one != other):
        return None
    return _in_year(year, min(one, other), max(one, other), today)


def _weekday(name: str, which: str | None, today: date) -> date:
    weekday = _WEEKDAYS.index(name[:3].lower())
    ahead = (weekday - today.weekday()) % 7
    match (which or "").lower():
        case "next":
            return today + timedelta(days=7 - today.weekday() + weekday)
        case "this":
            return today + timedelta(days=ahead)
        case _:
            return today + timedelta(days=ahead or 7)


def _period(period: str, today: date) -> date:
    """The last day of a period, or the first of one that is said to come next."""
    later = "next" in period
    to_first = later and "end" not in period
    monday = today - timedelta(days=today.weekday() - 7 * later)
    if "weekend" in period:
        return max(monday + timedelta(days=5), today)
    if "day" in period:
        return today
    if "week" in period:
        return monday if to_first else monday + timedelta(days=6)
    unit = "month" if "month" in period else "year"
    this = today.replace(day=1) if unit == "month" else today.replace(month=1, day=1)
    first = _later(this, int(later), unit)
    return first if to_first else _later(first, 1, unit) - timedelta(days=1)


def _later(day: date, count: int, unit: str) -> date:
    if unit in _UNIT_DAYS:
        return day + timedelta(days=min(count * _UNIT_DAYS[unit], _COUNT_MAX))
    months = day.month - 1 + count * (12 if unit == "year" else 1)
    year, month = day.year + months // 12, months % 12 + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _in_year(year: str | None, month: int, day: int, today: date) -> date:
    if year:
        return date(int(year), month, day)
    for candidate in range(today.year, today.year + 9):  # 29 February may be eight years away
        if day <= calendar.monthrange(candidate, month)[1] and (found := date(candidate, month, day)) >= today:
            return found
    raise ValueError(f"no year has a day {day} in month {month}")


def _next_day_of_month(day: int, today: date) -> date:
    for ahead in range(12):
        first = _later(today.replace(day=1), ahead, "month")
        if day <= calendar.monthrange(first.year, first.month)[1] and first.replace(day=day) >= today:
            return first.replace(day=day)
    raise ValueError(f"no month has a day {day}")
