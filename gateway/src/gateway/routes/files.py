"""`/v1/files`: upload, list, read and delete files, as OpenAI's Files API defines them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Response, UploadFile
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from gateway.deps import CurrentServices, CurrentUser, FileId, Postgres
from gateway.files import no_such_file, store_upload
from gateway.intake import UploadRoute, UserRoute
from gateway.limits import Slot
from gateway.problems import V1_ERRORS
from shared.db.files import File, FileContent, Purpose, delete_file, find_files, list_files, read_files
from shared.errors import InvalidInputError
from shared.ids import Prefix, from_wire, to_wire
from shared.observability import get_logger

log = get_logger()

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=UserRoute, responses=V1_ERRORS)

# The wire's own, which clients know.
_PAGE_LENGTH_DEFAULT = 1_000
_PAGE_LENGTH_MAX = 10_000
_EXPIRES_SECONDS_MIN = 3_600
_EXPIRES_SECONDS_MAX = 2_592_000

_SLICE_BYTES = 64 * 1024  # of one write to a client


class FileView(BaseModel):
    """A file. `status` is always `processed`: it can be used at once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "file_0199c3f2a4d87b3f8e5d2c1b0a998877",
                    "object": "file",
                    "bytes": 1024,
                    "created_at": 1_767_225_600,
                    "expires_at": None,
                    "filename": "notes.md",
                    "purpose": "user_data",
                    "status": "processed",
                }
            ]
        }
    )

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: File) -> Self:
        return cls(
            id=to_wire(Prefix.FILE, file.id),
            bytes=file.byte_count,
            created_at=int(file.created_at.timestamp()),
            expires_at=int(file.expires_at.timestamp()) if file.expires_at else None,
            filename=file.filename,
            purpose=file.purpose,
        )


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


async def create_file(  # noqa: PLR0913, PLR0917 - the fields of the form
    user: CurrentUser,
    services: CurrentServices,
    file: UploadFile,
    purpose: Annotated[Purpose, Form(description="`vision` takes images only.")],
    expires_after_anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    expires_after_seconds: Annotated[
        int | None, Form(alias="expires_after[seconds]", ge=_EXPIRES_SECONDS_MIN, le=_EXPIRES_SECONDS_MAX)
    ] = None,
) -> FileView:
    """A message can refer to it by its id. It stays until it is deleted, or expires."""
    if (expires_after_anchor is None) != (expires_after_seconds is None):
        raise InvalidInputError(
            "invalid_input", "expires_after: give both 'anchor' and 'seconds', or neither.", param="expires_after"
        )
    stored = await store_upload(
        services.database,
        user.id,
        await file.read(),
        services.settings,
        filename=file.filename,
        said_type=file.content_type or "",
        purpose=purpose,
        lifetime_seconds=expires_after_seconds,
    )
    return FileView.of(stored)


router.add_api_route("", create_file, methods=["POST"], summary="Upload a file", route_class_override=UploadRoute)


@router.get("", summary="List files")
async def get_files(  # noqa: PLR0913, PLR0917 - a filter each
    user: CurrentUser,
    database: Postgres,
    purpose: Purpose | None = None,
    after: Annotated[str | None, Query(description="The id of the last file of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE_LENGTH_MAX)] = _PAGE_LENGTH_DEFAULT,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    """By age. Those that came within messages are among them, and count like the others."""
    cursor = None if after is None else from_wire(Prefix.FILE, after, param="after")
    async with database.transaction(user.id) as db:
        page = await list_files(db, user.id, purpose=purpose, after=cursor, limit=limit, is_descending=order == "desc")
    data = [FileView.of(file) for file in page.files]
    return FileList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )


@router.get("/{file_id}", summary="Retrieve a file's facts")
async def get_file(user: CurrentUser, database: Postgres, file_id: FileId) -> FileView:
    async with database.transaction(user.id) as db:
        found = await find_files(db, user.id, [file_id])
    if file_id not in found:
        raise no_such_file()
    return FileView.of(found[file_id])


@router.get(
    "/{file_id}/content",
    summary="Retrieve a file's content",
    response_model=None,
    responses={200: {"content": {"*/*": {}}, "description": "Exactly what was uploaded."}},
)
async def get_file_content(user: CurrentUser, services: CurrentServices, file_id: FileId) -> Response:
    """To be saved, not shown: a browser opens it nowhere in the service's name."""
    with ExitStack() as held:
        slot = held.enter_context(services.transfers.take(user.id))
        async with services.database.transaction(user.id) as db:
            found = await read_files(db, user.id, [file_id], services.settings.file_bytes_per_user_max)
        if file_id not in found:
            raise no_such_file()
        download = _Download(found[file_id], slot, services.settings.send_timeout_seconds)
        held.pop_all()
    return download


@router.delete("/{file_id}", summary="Delete a file")
async def remove_file(user: CurrentUser, database: Postgres, file_id: FileId) -> FileDeleted:
    """For good. Messages that refer to it stay, without it."""
    async with database.transaction(user.id) as db:
        if not await delete_file(db, user.id, file_id):
            raise no_such_file()
    return FileDeleted(id=to_wire(Prefix.FILE, file_id))


class _Download(Response):
    """A file on its way, in slices; `slot` is given back at the end. A reader that takes nothing is let go."""

    def __init__(self, file: FileContent, slot: Slot, send_timeout_seconds: float) -> None:
        super().__init__(
            headers={
                "content-length": str(len(file.content)),
                "content-disposition": _disposition(file.filename),
                "content-security-policy": "default-src 'none'; sandbox",
                "x-content-type-options": "nosniff",
                "cache-control": "private, no-store",
            },
            media_type=file.media_type,
        )
        self._content = file.content
        self._slot = slot
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        with self._slot:
            try:
                await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                for body in self._slices():
                    await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})
                await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                log.info("download_closed", cause="slow reader")

    async def _send(self, send: Send, message: Any) -> None:
        async with asyncio.timeout(self._send_timeout_seconds):
            await send(message)

    def _slices(self) -> Iterator[bytes]:
        for start in range(0, len(self._content), _SLICE_BYTES):
            yield self._content[start : start + _SLICE_BYTES]


def _disposition(filename: str) -> str:
    """The name twice: as it is, and for old readers in ASCII without what could end the quotes."""
    plain = "".join(char if char.isascii() and char not in '"\\%' else "_" for char in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
