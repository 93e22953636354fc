"""Files: uploaded, listed, read back and deleted as OpenAI's clients do it; and those that come within messages."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import openai
import pytest
from fastapi import FastAPI

from gateway.files import FileKind, check_inline, clean_filename, known_file, store_inline
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.db.files import read_files
from shared.errors import InvalidInputError, NotFoundError, TooLargeError
from shared.ids import Prefix, from_wire, new_wire_id, to_wire
from tests.gateway.conftest import Caller, Serve
from tests.support.pictures import data_url, png
from tests.support.stack import token_of

ClientOf = Callable[[Caller], openai.AsyncOpenAI]


@pytest.fixture
async def client_of(gateway: FastAPI) -> AsyncIterator[ClientOf]:
    """The unmodified client of a user, which validates strictly what it gets."""
    clients: list[openai.AsyncOpenAI] = []

    def make(user: Caller) -> openai.AsyncOpenAI:
        clients.append(
            openai.AsyncOpenAI(
                base_url="http://gateway/v1",
                api_key=token_of(user.user_id),
                http_client=Caller(gateway, user.user_id, None),
                max_retries=0,
                _strict_response_validation=True,
            )
        )
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def client(client_of: ClientOf, ada: Caller) -> openai.AsyncOpenAI:
    return client_of(ada)


@pytest.fixture(scope="module")
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = await Database.connect(database_urls["parley_gateway"], application_name="test", pool_size=4)
    yield database
    await database.close()


async def upload(user: Caller, content: bytes = b"hello", filename: str = "a.txt", **fields: Any) -> Any:
    answer = await user.post("/v1/files", files={"file": (filename, content)}, data={"purpose": "user_data", **fields})
    return answer.json()


async def code_of(user: Caller, *arguments: Any, **named: Any) -> tuple[str, str | None]:
    error = (await upload(user, *arguments, **named))["error"]
    return error["code"], error["param"]


async def test_the_openai_client_uploads_reads_lists_and_deletes_a_file(client: openai.AsyncOpenAI) -> None:
    content = b"# Notes\n" + bytes(range(32, 127)) * 10

    made = await client.files.create(file=("notes.md", content), purpose="user_data")

    assert (made.filename, made.bytes, made.purpose) == ("notes.md", len(content), "user_data")
    assert await client.files.retrieve(made.id) == made
    assert [file.id async for file in client.files.list()] == [made.id]
    assert (await client.files.content(made.id)).content == content
    deleted = await client.files.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    assert [file async for file in client.files.list()] == []
    with pytest.raises(openai.NotFoundError):
        await client.files.content(made.id)


async def test_files_are_listed_page_by_page_and_by_purpose(client: openai.AsyncOpenAI) -> None:
    notes = [(await client.files.create(file=(f"{i}.txt", b"x"), purpose="user_data")).id for i in range(3)]
    image = (await client.files.create(file=("a.png", png()), purpose="vision")).id

    assert [file.id async for file in client.files.list(limit=2)] == [image, *reversed(notes)]
    assert [file.id async for file in client.files.list(limit=1, order="asc")] == [*notes, image]
    assert [file.id async for file in client.files.list(purpose="vision")] == [image]
    first = await client.files.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)


async def test_a_file_can_be_made_to_expire(client: openai.AsyncOpenAI, database_urls: dict[str, str]) -> None:
    made = await client.files.create(
        file=("a.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )

    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - 3600) <= 1
    owner = await asyncpg.connect(database_urls["owner"])
    await owner.execute("update files set expires_at = now() where id = $1", from_wire(Prefix.FILE, made.id))
    await owner.close()
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made.id)


async def test_half_of_an_expiry_is_refused(ada: Caller) -> None:
    assert await code_of(ada, **{"expires_after[seconds]": "3600"}) == ("invalid_input", "expires_after")


async def test_content_comes_as_something_to_save(ada: Caller) -> None:
    made = await upload(ada, b"<script>alert(1)</script>", "grün (1).html")

    answer = await ada.get(f"/v1/files/{made['id']}/content")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"gr_n (1).html\"; filename*=UTF-8''gr%C3%BCn%20%281%29.html"
    )
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_large_file_comes_back_byte_for_byte(ada: Caller) -> None:
    content = png() + bytes(3_000_000) + b"end"

    made = await upload(ada, content, "a.png", purpose="vision")

    assert (await ada.get(f"/v1/files/{made['id']}/content")).content == content


async def test_a_file_of_another_user_is_an_unknown_file(ada: Caller, bob: Caller) -> None:
    file_id, unknown = (await upload(ada))["id"], new_wire_id(Prefix.FILE)

    for method, suffix in [("GET", ""), ("GET", "/content"), ("DELETE", "")]:
        foreign = await bob.request(method, f"/v1/files/{file_id}{suffix}")
        missing = await bob.request(method, f"/v1/files/{unknown}{suffix}")
        assert (foreign.status_code, foreign.json()) == (404, missing.json())
    assert (await bob.get("/v1/files")).json()["data"] == []
    assert (await bob.get("/v1/files", params={"after": file_id})).json()["data"] == []
    assert (await ada.get(f"/v1/files/{file_id}")).status_code == 200


async def test_an_upload_is_judged_by_its_bytes(ada: Caller) -> None:
    assert await code_of(ada, b"MZ\x90\x00", "a.txt") == ("unsupported_media_type", "file")
    assert await code_of(ada, b"no image", "a.png", purpose="vision") == ("invalid_image", "file")
    assert await code_of(ada, png(10_000, 10_000), "a.png") == ("invalid_image", "file")
    assert await code_of(ada, png(0, 5), "a.png") == ("invalid_image", "file")
    assert await code_of(ada, b"", "a.txt") == ("file_empty", "file")


async def test_a_form_that_lacks_something_is_refused_by_the_name_of_the_field(ada: Caller) -> None:
    assert await code_of(ada, purpose="fine-tune") == ("invalid_input", "purpose")
    without = await ada.post("/v1/files", data={"purpose": "user_data"}, files={"other": ("a", b"x")})
    assert (without.status_code, without.json()["error"]["param"]) == (400, "file")


async def test_a_body_that_is_no_form_is_refused(ada: Caller) -> None:
    as_json = await ada.post("/v1/files", json={"purpose": "user_data"})
    broken = await ada.post(
        "/v1/files", content=b"not a form", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    crowded = await ada.post("/v1/files", files=[("file", ("a.txt", b"x")), ("file", ("b.txt", b"x"))])

    assert (as_json.status_code, as_json.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_form")
    assert (crowded.status_code, crowded.json()["error"]["code"]) == (400, "invalid_form")


async def test_nobody_without_a_token_uploads(stranger: Caller) -> None:
    assert (await stranger.post("/v1/files", files={"file": ("a.txt", b"x")})).status_code == 401


async def test_an_upload_over_the_limit_is_refused(serve: Serve, ada: Caller) -> None:
    async with serve(file_bytes_max=1_000) as served, served.client(ada.user_id) as http:
        fits, over = [
            await http.post("/v1/files", files={"file": ("a.txt", b"x" * size)}, data={"purpose": "user_data"})
            for size in (1_000, 1_001)
        ]

    assert fits.status_code == 200
    assert (over.status_code, over.json()["error"]["code"]) == (413, "file_too_large")


async def test_an_upload_far_over_the_limit_is_not_even_read(ada: Caller, gateway_settings: GatewaySettings) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"--x\r\ncontent-disposition: form-data; name=file; filename=a.txt\r\n\r\n"
        for _ in range(gateway_settings.file_bytes_max // 2**20 + 1):
            yield b"x" * 2**20
        raise AssertionError("read on")

    head = {"content-type": "multipart/form-data; boundary=x"}
    announced = await ada.post("/v1/files", content=b"", headers={**head, "content-length": "100000000"})
    unannounced = await ada.post("/v1/files", content=body(), headers=head)

    assert (announced.status_code, announced.json()["error"]["code"]) == (413, "body_too_large")
    assert (unannounced.status_code, unannounced.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_user_stores_no_more_than_allowed_also_at_once(serve: Serve, ada: Caller, bob: Caller) -> None:
    form: Any = {"files": {"file": ("a.txt", b"x" * 300)}, "data": {"purpose": "user_data"}}
    async with (
        serve(file_bytes_per_user_max=1_000, transfers_per_user_max=10) as served,
        served.client(ada.user_id) as http,
        served.client(bob.user_id) as other,
    ):
        answers = await asyncio.gather(*(http.post("/v1/files", **form) for _ in range(6)))
        of_other = await other.post("/v1/files", **form)
        stored = [answer.json()["id"] for answer in answers if answer.status_code == 200]
        await http.delete(f"/v1/files/{stored[0]}")
        after_delete = await http.post("/v1/files", **form)

    assert len(stored) == 3
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} == {"file_storage_full"}
    assert (of_other.status_code, after_delete.status_code) == (200, 200)


async def test_a_user_stores_no_more_files_than_allowed(serve: Serve, ada: Caller) -> None:
    async with serve(files_per_user_max=2) as served, served.client(ada.user_id) as http:
        form: Any = {"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "user_data"}}
        statuses = [(await http.post("/v1/files", **form)).status_code for _ in range(3)]

    assert statuses == [200, 200, 409]


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ada\\notes.md", "notes.md"),
        ("a\x00b\r\n.txt", "ab.txt"),
        ("invoice\u202etxt.exe", "invoicetxt.exe"),
        ("..", ""),
        ("  ", ""),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_name_keeps_nothing_that_deceives(given: str, clean: str) -> None:
    assert clean_filename(given) == clean


async def test_a_file_without_a_name_gets_one(ada: Caller) -> None:
    assert (await upload(ada, png(), "..", purpose="vision"))["filename"] == "image.png"


# --- within messages -------------------------------------------------------------------------------------------------


async def test_the_same_image_is_stored_once_per_user(
    ada: Caller, bob: Caller, database: Database, gateway_settings: GatewaySettings
) -> None:
    async def send(user: Caller, content: bytes) -> Any:
        return await store_inline(
            database, user.user_id, data_url(content), gateway_settings, kind=FileKind.IMAGE, param="image_url"
        )

    together = await asyncio.gather(*(send(ada, png(9, 9)) for _ in range(4)))
    other, of_bob = await send(ada, png(9, 8)), await send(bob, png(9, 9))

    assert len({file.id for file in together}) == 1
    assert len({together[0].id, other.id, of_bob.id}) == 3
    assert (together[0].filename, together[0].media_type) == ("image.png", "image/png")
    assert [file["id"] for file in (await ada.get("/v1/files")).json()["data"]] == [
        to_wire(Prefix.FILE, other.id),
        to_wire(Prefix.FILE, together[0].id),
    ]


async def test_a_file_may_be_plain_base64(ada: Caller, database: Database, gateway_settings: GatewaySettings) -> None:
    given = base64.b64encode(b"a,b\n1,2").decode()

    file = await store_inline(
        database, ada.user_id, given, gateway_settings, kind=FileKind.FILE, param="file_data", filename="t.csv"
    )

    assert (file.filename, file.media_type, file.byte_count) == ("t.csv", "text/csv", 7)


@pytest.mark.parametrize(
    ("given", "kind", "code"),
    [
        ("https://example.org/a.png", FileKind.IMAGE, "remote_url_not_supported"),
        ("HTTP://169.254.169.254/", FileKind.FILE, "remote_url_not_supported"),
        ("file:///etc/passwd", FileKind.IMAGE, "invalid_data_url"),
        ("data:image/png,plain", FileKind.FILE, "invalid_data_url"),
        ("data:image/png;base64,@@@", FileKind.IMAGE, "invalid_data_url"),
        (data_url(b"no image"), FileKind.IMAGE, "invalid_image"),
        (data_url(b"\x00\x01"), FileKind.FILE, "unsupported_media_type"),
        (data_url(b""), FileKind.FILE, "file_empty"),
    ],
)
async def test_what_is_no_file_is_refused_by_the_name_of_the_field(
    gateway_settings: GatewaySettings, given: str, kind: FileKind, code: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await check_inline(given, gateway_settings, kind=kind, param="input[0].content[1]")

    assert (refused.value.code, refused.value.param) == (code, "input[0].content[1]")
    assert refused.value.message.startswith("input[0].content[1]: ")


async def test_a_data_url_over_the_limit_is_refused(
    ada: Caller, database: Database, gateway_settings: GatewaySettings
) -> None:
    small = gateway_settings.model_copy(update={"file_bytes_max": 100})

    with pytest.raises(TooLargeError) as refused:
        await store_inline(database, ada.user_id, data_url(b"x" * 101), small, kind=FileKind.FILE, param="file_data")

    assert (refused.value.code, refused.value.param) == ("file_too_large", "file_data")


async def test_a_message_can_refer_to_files_of_its_own_user_only(ada: Caller, bob: Caller, database: Database) -> None:
    text, image = (await upload(ada))["id"], (await upload(ada, png(), "a.png"))["id"]

    async def code(user: Caller, file_id: str, kind: FileKind) -> str:
        try:
            return (await known_file(database, user.user_id, file_id, kind=kind, param="file_id")).filename
        except (InvalidInputError, NotFoundError) as error:
            return error.code

    assert await code(ada, text, FileKind.FILE) == "a.txt"
    assert await code(ada, image, FileKind.IMAGE) == "a.png"
    assert await code(ada, text, FileKind.IMAGE) == "invalid_image"
    assert await code(bob, text, FileKind.FILE) == "file_not_found"
    assert await code(ada, new_wire_id(Prefix.FILE), FileKind.FILE) == "file_not_found"
    assert await code(ada, "file-abc", FileKind.FILE) == "file_not_found"


async def test_the_worker_reads_files_of_a_user_as_far_as_they_fit(
    ada: Caller, bob: Caller, database_urls: dict[str, str]
) -> None:
    first, second, third = [from_wire(Prefix.FILE, (await upload(ada, bytes([65 + i]) * 100))["id"]) for i in range(3)]
    worker = await Database.connect(database_urls["parley_worker"], application_name="test", pool_size=1)

    async def read(user: Caller, ids: list[Any], bytes_max: int) -> set[Any]:
        async with worker.transaction(user.user_id) as db:
            return {file.content[:1] for file in (await read_files(db, user.user_id, ids, bytes_max)).values()}

    try:
        assert await read(ada, [first, second, third], 1_000) == {b"A", b"B", b"C"}
        assert await read(ada, [third, first, second], 200) == {b"C", b"A"}
        assert await read(ada, [first], 99) == set()
        assert await read(bob, [first, second], 1_000) == set()
    finally:
        await worker.close()
