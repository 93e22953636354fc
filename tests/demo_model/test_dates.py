"""Dates as people say them, on Wednesday, 25 November 2026."""

from datetime import date

import pytest

from demo_model import dates
from tests.demo_model.chats import TODAY


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("today", "2026-11-25"),
        ("tonight", "2026-11-25"),
        ("tomorrow morning", "2026-11-26"),
        ("the day after tomorrow", "2026-11-27"),
        ("Friday", "2026-11-27"),
        ("on wednesday", "2026-12-02"),
        ("this Wednesday", "2026-11-25"),
        ("next Friday", "2026-12-04"),
        ("next Monday", "2026-11-30"),
        ("monday next week", "2026-11-30"),
        ("by Sunday at the latest", "2026-11-29"),
        ("in 3 days", "2026-11-28"),
        ("in a week", "2026-12-02"),
        ("in two weeks' time", "2026-12-09"),
        ("in a month", "2026-12-25"),
        ("a couple of days from now", "2026-11-27"),
        ("next week", "2026-11-30"),
        ("this week", "2026-11-29"),
        ("end of the week", "2026-11-29"),
        ("the weekend", "2026-11-28"),
        ("next month", "2026-12-01"),
        ("the end of the month", "2026-11-30"),
        ("the end of the year", "2026-12-31"),
        ("due 2026-12-24", "2026-12-24"),
        ("March 3rd", "2027-03-03"),
        ("December 24", "2026-12-24"),
        ("Dec 24, 2027", "2027-12-24"),
        ("the 15th of January", "2027-01-15"),
        ("3 Feb", "2027-02-03"),
        ("on the 20th", "2026-12-20"),
        ("on the 31st", "2026-12-31"),
        ("24.12.2026", "2026-12-24"),
        ("12/25", "2026-12-25"),
        ("25/12/2027", "2027-12-25"),
        ("February 29", "2028-02-29"),
    ],
)
def test_a_date_is_understood(said: str, day: str) -> None:
    assert dates.whole(said, TODAY) == date.fromisoformat(day)


@pytest.mark.parametrize(
    "said", ["", "soon", "2026-02-30", "February 30", "32 March", "3/4", "13/14", "May", "in some days", "99.99.2026"]
)
def test_what_is_no_date_or_could_be_two_is_none(said: str) -> None:
    assert dates.whole(said, TODAY) is None


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("call mom on Friday about dinner", "call mom  about dinner"),
        ("call mom tomorrow at 5pm", "call mom  at 5pm"),
        ("tomorrow: call mom", ": call mom"),
    ],
)
def test_a_date_is_found_where_the_sentence_carries_it(text: str, rest: str) -> None:
    found = dates.find(text, TODAY)

    assert found
    assert text[: found.start] + text[found.end :] == rest


@pytest.mark.parametrize(
    "text", ["plan the Sunday dinner", "read Friday's paper", "enjoy the sun", "watch the march", "book 3/4 seats"]
)
def test_a_title_keeps_the_words_that_only_look_like_a_date(text: str) -> None:
    assert dates.find(text, TODAY) is None


@pytest.mark.parametrize(
    ("today", "said", "day"),
    [
        (date(2026, 11, 29), "next friday", date(2026, 12, 4)),  # said on a Sunday
        (date(2026, 11, 29), "the weekend", date(2026, 11, 29)),
        (date(2026, 12, 31), "tomorrow", date(2027, 1, 1)),
        (date(2026, 1, 31), "in a month", date(2026, 2, 28)),
        (date(2026, 1, 31), "next month", date(2026, 2, 1)),
        (date(2026, 1, 31), "on the 30th", date(2026, 3, 30)),
    ],
)
def test_the_edges_of_weeks_months_and_years_hold(today: date, said: str, day: date) -> None:
    assert dates.whole(said, today) == day
