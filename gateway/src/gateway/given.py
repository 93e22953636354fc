"""Reading what clients send inside of lists: objects of many kinds, each checked by a model of its own.

(What has one shape is checked by FastAPI.)
"""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import InvalidInputError
from shared.events import JsonObject


class Given(BaseModel):
    """Base of the models. Unknown fields are left out: clients grow new ones."""

    model_config = ConfigDict(extra="ignore")


GivenT = TypeVar("GivenT", bound=Given)


def read(kind: type[GivenT], given: JsonObject, param: str) -> GivenT:
    """`given` as a `kind`. `param` is where it was found. Raises InvalidInputError, which names the field at fault."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = param + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
        message = fault["msg"][:1].lower() + fault["msg"][1:]
        raise InvalidInputError("invalid_input", f"{field}: {message}", param=field) from error
