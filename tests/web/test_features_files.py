"""Files in messages: judged before they are sent, seen on their way, given up, sent, and there again after a reload."""

import asyncio
import base64
import contextlib

from playwright.async_api import BrowserContext, Error, Page, Route, expect

from tests.web import axe
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import answer_of, ask, at_rest, box_of, come_in, new_user, said_in

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
_DROP = """(files) => {
    const data = new DataTransfer();
    for (const [name, text, count] of files) data.items.add(new File([text.repeat(count)], name));
    for (const type of ["dragover", "drop"])
        document.querySelector("main").dispatchEvent(
            new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
_PASTE = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: "text/plain" }));
    document.querySelector("#message").dispatchEvent(
        new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


def a_file(name: str, content: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


async def attach(page: Page, *files: dict[str, object]) -> None:
    await page.locator("input[type=file]").set_input_files(files)  # type: ignore[arg-type]


async def test_a_picture_and_a_text_are_sent_and_shown_again_after_a_reload(new_device: NewDevice) -> None:
    page = await come_in(await new_device(bypass_csp=True), new_user())
    await attach(page, a_file("dot.png", PICTURE), a_file("notes.txt", b"Oslo: 14 degrees"))
    waiting = page.get_by_role("list", name="Attached files").get_by_role("listitem")
    await expect(waiting).to_have_count(2)
    await expect(page.get_by_role("button", name="Remove dot.png")).to_be_visible()
    await expect(page.get_by_role("button", name="Remove notes.txt")).to_be_visible()
    assert await axe.violations(page) == []

    await ask(page, "what is in this picture?")
    await expect(answer_of(page)).to_contain_text("1 image")
    for _ in range(2):
        picture = said_in(page).get_by_role("img", name="Image").or_(said_in(page).get_by_role("img", name="dot.png"))
        await expect(picture).to_be_visible()
        assert await picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
        async with page.expect_download() as saving:
            await said_in(page).get_by_role("button", name="Save notes.txt").click()
        download = await saving.value
        assert download.suggested_filename == "notes.txt"
        assert (await download.path()).read_bytes() == b"Oslo: 14 degrees"
        await page.reload()

    # Edited, the message keeps its files.
    await said_in(page).hover()
    await said_in(page).get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("and what is in it now?")
    await page.get_by_label("Edit your message").press("Enter")
    await at_rest(page)
    await expect(answer_of(page)).to_contain_text("1 image")


async def test_what_cannot_be_taken_is_said_before_it_is_uploaded(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/v1/files") else None)
    await page.evaluate(_DROP, [["film.bin", "\0\1\2", 1], ["large.txt", "x", 8 * 2**20 + 1], ["no.txt", "", 1]])
    for sentence in ("Not an image, PDF or text.", "Larger than 8 MB.", "The file is empty."):
        await expect(page.get_by_role("alert").filter(has_text=sentence)).to_be_visible()
    assert asked == []
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()


async def test_what_comes_before_it_is_known_what_is_taken_waits_for_that_and_so_does_its_message(
    device: BrowserContext,
) -> None:
    known = asyncio.Event()

    async def hold(route: Route) -> None:
        await known.wait()
        await route.continue_()

    await device.route("**/v1/models", hold)
    page = await come_in(device, new_user())
    await expect(page.get_by_role("button", name="Attach files")).to_have_count(0)
    await page.evaluate(_DROP, [["film.bin", "\0\1\2", 1], ["dropped.txt", "one", 1]])
    await page.evaluate(_PASTE, ["pasted.txt", "two"])
    await box_of(page).fill("[[demo: echo]] read them")
    await box_of(page).press("Enter")
    known.set()

    await expect(page.get_by_role("alert").filter(has_text="Not an image, PDF or text.")).to_be_visible()
    await page.get_by_role("button", name="Remove film.bin").click()
    await at_rest(page)
    await expect(answer_of(page)).to_contain_text("File dropped.txt")
    await expect(answer_of(page)).to_contain_text("File pasted.txt")


async def test_an_upload_shows_how_far_it_is_and_can_be_given_up(
    device: BrowserContext, complaints: Complaints
) -> None:
    page = await come_in(device, new_user())
    complaints.expect_losses()
    goes_on = asyncio.Event()

    async def hold(route: Route) -> None:
        await goes_on.wait()
        with contextlib.suppress(Error):  # it was given up
            await route.abort()

    await page.route("**/v1/files", hold)
    await page.evaluate(_DROP, [["dropped.txt", "one", 1]])
    await expect(page.get_by_role("progressbar", name="dropped.txt")).to_be_visible()
    await page.get_by_role("button", name="Cancel the upload of dropped.txt").click()
    await expect(page.get_by_role("list", name="Attached files")).to_have_count(0)
    goes_on.set()
    await page.unroute("**/v1/files")

    # Who sends before the upload is done need not do so twice.
    await page.evaluate(_PASTE, ["pasted.txt", "two"])
    await box_of(page).fill("[[demo: echo]] read it")
    await box_of(page).press("Enter")
    await at_rest(page)
    await expect(answer_of(page)).to_contain_text("File pasted.txt")
