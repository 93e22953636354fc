"""The bounds of what is kept in memory, and which of several knobs wins."""

import pytest

from demo_model.knobs import FaultCounter, Knobs, Record, Recorder, read_knobs, split_directives
from demo_model.wire import RequestError


def a_record(key: str) -> Record:
    return Record(key, "demo", 1, 1, "go", (), stream=False)


def test_a_directive_wins_over_a_header_and_a_header_over_the_model() -> None:
    read = read_knobs("demo?tokens=1&delay_ms=1&key=a", {"x-demo-tokens": "2", "x-demo-delay-ms": "2"}, ["tokens=3"])

    assert read == Knobs(tokens=3, delay_ms=2, key="a")


def test_a_model_of_any_name_has_no_knobs() -> None:
    assert read_knobs("gpt-5-mini", {"accept": "*/*"}, []) == Knobs()


@pytest.mark.parametrize("query", ["tokens=100001", "tokens=-1", "tokens=\u00b2", "fault=200", "fault=600", "speed=1"])
def test_a_knob_out_of_range_is_refused(query: str) -> None:
    with pytest.raises(RequestError):
        read_knobs(f"demo?{query}", {}, [])


def test_directives_are_taken_out_of_the_text_around_them() -> None:
    assert split_directives("[[demo: tokens=3]] add [[DEMO:echo]]milk") == ("add milk", [" tokens=3", "echo"])


def test_the_key_unused_for_longest_is_forgotten() -> None:
    counter = FaultCounter(keys_max=2)

    first = [counter.strikes(Knobs(fault="500", fault_times=1, key=key)) for key in "aab"]
    later = [counter.strikes(Knobs(fault="500", fault_times=1, key=key)) for key in "acb"]

    assert first == [True, False, True]
    assert later == [False, True, True]


def test_the_oldest_record_makes_room() -> None:
    recorder = Recorder(records_max=2)

    for key in "aab":
        recorder.add(a_record(key))

    assert recorder.counts() == {"a": 1, "b": 1}
    assert [record.key for record in recorder.of(None)] == ["a", "b"]
