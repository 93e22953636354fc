"""Which variables a class of settings reads."""

from collections.abc import Iterator

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from shared.settings import ServiceSettings


def variables_of(settings: type[ServiceSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """The variables that `settings` reads, each with its field."""
    for name, field in settings.model_fields.items():
        match field.validation_alias:
            case AliasChoices(choices=variables):
                yield from ((str(variable), field) for variable in variables)
            case None:
                yield f"{settings.model_config.get('env_prefix', '')}{name}".upper(), field
            case other:
                raise AssertionError(f"{settings.__name__}.{name} is read from {other}")
