"""The content of a message: its parts as the wire knows them, with references in place of files."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from gateway.files import FileKind, known_file, store_inline
from gateway.given import Given, read
from gateway.settings import GatewaySettings, ModelInput
from shared.db import Database
from shared.errors import InvalidInputError
from shared.events import JsonObject
from shared.ids import Prefix, to_wire

_SUPPORTED = {
    "user": "input_text, input_image, input_file",
    "assistant": "output_text, refusal",
    "system": "input_text",
}
_FileId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Image(Given):
    image_url: str | None = None
    file_id: _FileId | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None


class _File(Given):
    file_data: str | None = None
    file_id: _FileId | None = None
    file_url: str | None = None
    filename: Annotated[str, StringConstraints(max_length=1_024)] | None = None


def parse_parts(content: Any, role: str, settings: GatewaySettings, *, param: str) -> list[JsonObject]:
    """The parts of a message of `role`; a text is one part. Files are still in them: `store_file` takes them out.

    Raises InvalidInputError: `unsupported_content` for what this role, or the model, cannot have.
    """
    if isinstance(content, str):
        return [text_part(role, content)]
    if not isinstance(content, list):
        raise InvalidInputError("invalid_input", f"{param}: expected a text or a list of parts.", param=param)
    return [_parse_part(part, role, settings, f"{param}[{index}]") for index, part in enumerate(content)]


def text_part(role: str, text: str) -> JsonObject:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def text_of(parts: Iterable[JsonObject]) -> str:
    """What is said in the parts."""
    return "\n".join(text for part in parts if (text := part.get("text") or part.get("refusal")))


def is_file(part: JsonObject) -> bool:
    return part["type"] in {"input_image", "input_file"}


async def store_file(
    database: Database, user_id: str, part: JsonObject, settings: GatewaySettings, *, param: str
) -> JsonObject:
    """The part with a reference to its file, which is stored if it came with it.

    Raises NotFoundError for a file that the user does not have, and as `files.store_inline`.
    """
    kind = FileKind.IMAGE if part["type"] == "input_image" else FileKind.FILE
    if part["file_id"] is not None:
        file = await known_file(database, user_id, part["file_id"], kind=kind, param=f"{param}.file_id")
    else:
        name = "image_url" if kind is FileKind.IMAGE else "file_data"
        file = await store_inline(
            database,
            user_id,
            part[name],
            settings,
            kind=kind,
            param=f"{param}.{name}",
            filename=part.get("filename"),
        )
    file_id = to_wire(Prefix.FILE, file.id)
    if kind is FileKind.IMAGE:
        return {"type": "input_image", "file_id": file_id, "image_url": None, "detail": part["detail"]}
    return {"type": "input_file", "file_id": file_id, "filename": file.filename}


def unsupported_part(part: Any, supported: str, param: str) -> InvalidInputError:
    kind = part.get("type") if isinstance(part, dict) else None
    what = f"Content of type '{kind[:40]}' is not supported here" if isinstance(kind, str) else "Not a content part"
    return InvalidInputError("unsupported_content", f"{what}; send one of: {supported}.", param=param)


def _parse_part(part: Any, role: str, settings: GatewaySettings, param: str) -> JsonObject:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return text_part(role, text)
        case {"type": "refusal", "refusal": str(text)} if role == "assistant":
            return {"type": "refusal", "refusal": text}
        case {"type": "input_image"} if role == "user":
            _check_is_taken(ModelInput.IMAGE, param, settings)
            return _parse_image(part, param)
        case {"type": "input_file"} if role == "user":
            _check_is_taken(ModelInput.FILE, param, settings)
            return _parse_file(part, param)
        case _:
            raise unsupported_part(part, _SUPPORTED[role], param)


def _check_is_taken(kind: ModelInput, param: str, settings: GatewaySettings) -> None:
    if kind not in settings.model_inputs:
        message = f"The model takes no content of type 'input_{kind}'; send text."
        raise InvalidInputError("unsupported_content", message, param=param)


def _parse_image(part: JsonObject, param: str) -> JsonObject:
    image = read(_Image, part, param)
    _check_one_source(param, image_url=image.image_url, file_id=image.file_id)
    return {"type": "input_image", **image.model_dump(), "detail": image.detail or "auto"}


def _parse_file(part: JsonObject, param: str) -> JsonObject:
    file = read(_File, part, param)
    data = file.file_url if file.file_data is None else file.file_data
    _check_one_source(param, file_data=data, file_id=file.file_id)
    return {"type": "input_file", "file_data": data, "file_id": file.file_id, "filename": file.filename}


def _check_one_source(param: str, **sources: str | None) -> None:
    if sum(value is not None for value in sources.values()) != 1:
        names = " and ".join(f"'{name}'" for name in sources)
        raise InvalidInputError("invalid_input", f"{param}: send exactly one of {names}.", param=param)
