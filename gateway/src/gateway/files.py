"""Files of users on their way in: as uploads, or within messages as data URLs. Nothing is fetched for anybody.

Whatever way it comes, a file is judged by its bytes, has a clean name, and counts against what its user may store. One
that came within a message is stored once per user and content, and goes with the last message that refers to it.
"""

import asyncio
import base64
import binascii
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from gateway import media
from gateway.media import Media
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.db.files import File, NewFile, Purpose, find_files, store_file
from shared.errors import InvalidInputError, NotFoundError, TooLargeError
from shared.ids import Prefix, from_wire

FILENAME_CHARS_MAX = 255
_EXTENSION_CHARS_MAX = 16
_DATA_URL = re.compile(r"data:(?P<type>[^;,]{0,100})(?:;[^;,]{0,100}){0,5}?;base64,", re.IGNORECASE)
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # characters that serve to deceive a reader, or cannot be stored


class FileKind(StrEnum):
    """What a message wants a file for."""

    IMAGE = "image"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file that may be stored, or given to a model."""

    filename: str
    media: Media
    content: bytes


async def store_upload(  # noqa: PLR0913 - what an upload says of itself
    database: Database,
    user_id: str,
    content: bytes,
    settings: GatewaySettings,
    *,
    filename: str | None,
    said_type: str,
    purpose: Purpose,
    lifetime_seconds: float | None = None,
) -> File:
    """Store what a user uploads. Raises as `check_file` and `store_file`."""
    kind = FileKind.IMAGE if purpose is Purpose.VISION else FileKind.FILE
    checked = await asyncio.to_thread(
        check_file, content, settings, kind=kind, filename=filename, said_type=said_type, param="file"
    )
    return await _store(
        database, user_id, checked, settings, purpose=purpose, is_inline=False, lifetime_seconds=lifetime_seconds
    )


async def store_inline(  # noqa: PLR0913
    database: Database,
    user_id: str,
    given: str,
    settings: GatewaySettings,
    *,
    kind: FileKind,
    param: str,
    filename: str | None = None,
) -> File:
    """Store the file in a data URL that came within a message, once however often it comes.

    Raises as `check_inline` and `store_file`; errors name `param`.
    """
    checked = await check_inline(given, settings, kind=kind, param=param, filename=filename)
    purpose = Purpose.VISION if checked.media.is_image else Purpose.USER_DATA
    return await _store(database, user_id, checked, settings, purpose=purpose, is_inline=True)


async def known_file(database: Database, user_id: str, given_id: str, *, kind: FileKind, param: str) -> File:
    """The user's file with this id, which a message refers to.

    Raises NotFoundError (`file_not_found`); InvalidInputError (`invalid_image`) where it should be an image and is not.
    """
    try:
        file_id = from_wire(Prefix.FILE, given_id)
    except InvalidInputError as error:
        raise no_such_file(param) from error
    async with database.transaction(user_id) as db:
        file = (await find_files(db, user_id, [file_id])).get(file_id)
    if file is None:
        raise no_such_file(param)
    if kind is FileKind.IMAGE and not file.media_type.startswith("image/"):
        raise InvalidInputError("invalid_image", f"{param}: this file is no image.", param=param)
    return file


async def check_inline(
    given: str, settings: GatewaySettings, *, kind: FileKind, param: str, filename: str | None = None
) -> CheckedFile:
    """The file in a data URL; where a file is wanted, plain base64 will do.

    Raises InvalidInputError (`remote_url_not_supported`, `invalid_data_url`) and as `check_file`.
    """

    def check() -> CheckedFile:
        said_type, content = _decoded(given, settings.file_bytes_max, kind, param)
        return check_file(content, settings, kind=kind, filename=filename, said_type=said_type, param=param)

    return await asyncio.to_thread(check)


def check_file(  # noqa: PLR0913
    content: bytes, settings: GatewaySettings, *, kind: FileKind, filename: str | None, said_type: str, param: str
) -> CheckedFile:
    """`content` as a file with a clean name and its true type.

    Raises TooLargeError (`file_too_large`) and InvalidInputError (`file_empty`, `unsupported_media_type`,
    `invalid_image`).
    """
    if len(content) > settings.file_bytes_max:
        raise _too_large(settings.file_bytes_max, param)
    if not content:
        raise InvalidInputError("file_empty", f"{param}: the file is empty.", param=param)
    found = media.recognised(content, filename=filename, said_type=said_type)
    if kind is FileKind.IMAGE and (found is None or not found.is_image):
        message = f"{param}: not an image; send a PNG, JPEG, GIF or WebP."
        raise InvalidInputError("invalid_image", message, param=param)
    if found is None:
        message = f"{param}: this kind of file is not supported; send {media.SUPPORTED}."
        raise InvalidInputError("unsupported_media_type", message, param=param)
    if found.pixel_count is not None and not 0 < found.pixel_count <= settings.image_pixels_max:
        message = f"{param}: the image is broken or has more than {settings.image_pixels_max} pixels."
        raise InvalidInputError("invalid_image", message, param=param)
    default = f"{'image' if found.is_image else 'file'}.{found.extension}"
    return CheckedFile(clean_filename(filename or "") or default, found, content)


def clean_filename(given: str) -> str:
    """The last part of a path, without what cannot be shown, cut to a length; empty where nothing is left."""
    base = re.split(r"[/\\]", unicodedata.normalize("NFC", given))[-1]
    shown = "".join(char for char in base if unicodedata.category(char) not in _HIDDEN).strip()
    if not shown.strip("."):
        return ""
    if len(shown) <= FILENAME_CHARS_MAX:
        return shown
    stem, dot, extension = shown.rpartition(".")
    if not stem or len(extension) > _EXTENSION_CHARS_MAX:
        return shown[:FILENAME_CHARS_MAX]
    return stem[: FILENAME_CHARS_MAX - len(dot) - len(extension)] + dot + extension


def no_such_file(param: str | None = None) -> NotFoundError:
    return NotFoundError("file_not_found", "No such file.", param=param)


async def _store(  # noqa: PLR0913
    database: Database,
    user_id: str,
    checked: CheckedFile,
    settings: GatewaySettings,
    *,
    purpose: Purpose,
    is_inline: bool,
    lifetime_seconds: float | None = None,
) -> File:
    new = NewFile(
        filename=checked.filename,
        media_type=checked.media.media_type,
        purpose=purpose,
        content=checked.content,
        is_inline=is_inline,
        lifetime_seconds=lifetime_seconds,
    )
    async with database.transaction(user_id) as db:
        return await store_file(
            db,
            user_id,
            new,
            bytes_max=settings.file_bytes_per_user_max,
            count_max=settings.files_per_user_max,
        )


def _decoded(given: str, bytes_max: int, kind: FileKind, param: str) -> tuple[str, bytes]:
    """What a data URL says that it holds, and what it holds."""
    if re.match(r"https?://", given, re.IGNORECASE):
        message = f"{param}: addresses are not fetched; send a data URL, or upload the file and name its 'file_id'."
        raise InvalidInputError("remote_url_not_supported", message, param=param)
    head = _DATA_URL.match(given)
    if head is None and (kind is FileKind.IMAGE or given[:5].lower() == "data:"):
        raise _invalid_data_url(param)
    data = given[head.end() if head else 0 :]
    if len(data) // 4 * 3 > bytes_max + 3:
        raise _too_large(bytes_max, param)
    try:
        return head["type"] if head else "", base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid_data_url(param) from error


def _invalid_data_url(param: str) -> InvalidInputError:
    message = f"{param}: not a data URL in base64; it looks like 'data:image/png;base64,iVBORw0…'."
    return InvalidInputError("invalid_data_url", message, param=param)


def _too_large(bytes_max: int, param: str) -> TooLargeError:
    return TooLargeError("file_too_large", f"{param}: a file has at most {bytes_max} bytes.", param=param)
