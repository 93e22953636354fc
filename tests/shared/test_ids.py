import uuid

import pytest

from shared.errors import InvalidInputError
from shared.ids import Prefix, from_wire, to_wire, uuid7


def test_ids_of_one_process_are_increasing_and_of_version_seven() -> None:
    made = [uuid7() for _ in range(5_000)]

    assert made == sorted(set(made))
    assert {(id_.version, id_.variant) for id_ in made} == {(7, uuid.RFC_4122)}


def test_an_id_survives_the_wire() -> None:
    value = uuid7()

    assert from_wire(Prefix.RESPONSE, to_wire(Prefix.RESPONSE, value)) == value


@pytest.mark.parametrize(
    "text",
    ["", "resp_", "resp", "conv_" + "0" * 32, "resp_" + "0" * 31, "resp_" + "0" * 33, "resp_" + "G" * 32, "resp_"
     + "A" * 32, "resp_0199c3f2-a4d8-7b3f-8e5d-2c1b0a998877", "resp_" + "0" * 31 + "\n", " resp_" + "0" * 32,
     "resp_" + "\N{ARABIC-INDIC DIGIT ZERO}" * 32],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        from_wire(Prefix.RESPONSE, text)

    assert refused.value.code == "invalid_id"
