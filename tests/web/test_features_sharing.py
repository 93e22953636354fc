"""What leaves a conversation: links to it, files of it, opinions on it, and that it has something new."""

import json
import re

from playwright.async_api import Locator, Page, expect

from tests.support.client import Client
from tests.support.stack import Stack
from tests.web import axe
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import answer_of, ask, at_rest, box_of, come_in, new_user, rows_of, said_in


async def choose_from_menu(page: Page, name: str) -> None:
    await page.locator("summary[aria-label='Options of this conversation']").click()
    await page.get_by_role("button", name=name, exact=True).click()


async def test_a_link_shows_the_conversation_to_anybody_who_may_go_on_in_a_copy_until_it_is_revoked(
    new_device: NewDevice, complaints: Complaints
) -> None:
    complaints.expect(401, 404)  # a stranger is nobody; a revoked link leads nowhere
    page = await come_in(await new_device(), new_user())
    await ask(page, "add a task: buy milk")
    await choose_from_menu(page, "Share")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Create a link").click()
    link = await dialog.get_by_role("textbox", name="Links").input_value()

    stranger = await (await new_device(bypass_csp=True)).new_page()
    await stranger.goto(link)
    await expect(stranger.get_by_role("heading", level=1)).to_have_text(re.compile("milk", re.IGNORECASE))
    await expect(said_in(stranger)).to_have_text("add a task: buy milk")
    await expect(answer_of(stranger)).to_contain_text("I added “buy milk”.")
    assert await axe.violations(stranger) == []
    await stranger.get_by_role("button", name="Copy and continue").click()
    await stranger.get_by_label("Your name").fill(new_user())
    await stranger.get_by_role("button", name="Sign in", exact=True).click()
    await expect(said_in(stranger)).to_have_text("add a task: buy milk")
    await ask(stranger, "what was my first message?")
    await expect(said_in(page)).to_have_count(1)

    await dialog.get_by_role("button", name="Revoke").click()
    await expect(dialog).to_contain_text("There is no link yet.")
    await stranger.goto(link)
    await expect(stranger.get_by_role("heading")).to_have_text("This link leads nowhere")


async def test_a_conversation_is_saved_as_markdown_and_as_json(new_device: NewDevice) -> None:
    device = await new_device(permissions=["clipboard-read", "clipboard-write"])
    page = await come_in(device, new_user())
    await ask(page, "[[demo: echo]] Here is **code**:\n\n```sh\nls\n```")
    async with page.expect_download() as saving:
        await choose_from_menu(page, "Export as Markdown")
    text = (await (await saving.value).path()).read_text()
    assert (await saving.value).suggested_filename.endswith(".md")
    assert text.startswith("# ")
    assert "## You\n\n" in text
    assert "## Assistant\n\nHere is **code**:\n\n```sh\nls\n```\n" in text
    async with page.expect_download() as saving:
        await choose_from_menu(page, "Export as JSON")
    exported = json.loads((await (await saving.value).path()).read_text())
    assert exported["conversation"]["id"].startswith("conv_")
    assert [item["role"] for item in exported["items"]] == ["user", "assistant"]

    await answer_of(page).get_by_role("button", name="Copy", exact=True).click()
    assert await page.evaluate("navigator.clipboard.readText()") == "Here is **code**:\n\n```sh\nls\n```"


async def test_feedback_with_its_reason_is_there_after_a_reload_and_can_be_taken_back(new_device: NewDevice) -> None:
    page = await come_in(await new_device(), new_user())
    await ask(page, "hello")

    def thumb(name: str) -> Locator:
        return answer_of(page).get_by_role("button", name=name)

    await thumb("Bad answer").click()
    reason = page.get_by_label("What was wrong with it?")
    await expect(reason).to_be_focused()
    await reason.fill("Too short")
    async with page.expect_response(lambda answer: "Too short" in (answer.request.post_data or "")) as stored:
        await reason.press("Enter")
    assert (await (await stored.value).json())["reason"] == "Too short"
    await page.reload()
    await expect(thumb("Bad answer")).to_have_attribute("aria-pressed", "true")
    await thumb("Good answer").click()
    await expect(thumb("Good answer")).to_have_attribute("aria-pressed", "true")
    await expect(thumb("Bad answer")).to_have_attribute("aria-pressed", "false")
    async with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        await thumb("Good answer").click()
    await page.reload()
    await expect(thumb("Good answer")).to_have_attribute("aria-pressed", "false")


async def test_an_answer_that_nobody_saw_is_marked_on_every_device_until_it_is_read_on_one(
    new_device: NewDevice, stack: Stack
) -> None:
    user = new_user()
    page, other = [await come_in(await new_device(), user) for _ in range(2)]
    client = Client(stack.gateway().url, user)
    await client.chat("[[demo: echo]] while nobody looks")
    await client.close()
    for tab in (page, other):
        await expect(rows_of(tab).get_by_role("img", name="New answer")).to_be_visible()
    await other.reload()
    await expect(rows_of(other).get_by_role("img", name="New answer")).to_be_visible()
    await rows_of(other).get_by_role("link").click()
    await at_rest(other)
    for tab in (page, other):
        await expect(rows_of(tab).get_by_role("img", name="New answer")).to_have_count(0)
    await expect(box_of(page)).to_be_visible()


async def test_an_answer_whose_end_was_seen_is_read_even_if_its_reader_leaves_at_once(
    new_device: NewDevice, complaints: Complaints
) -> None:
    complaints.expect_losses()
    page = await come_in(await new_device(), new_user())
    await page.route("**/v1/events", lambda route: route.abort())  # the feed is slower than any reader
    await page.reload()
    async with page.expect_response(lambda answer: answer.url.endswith("/read") and answer.ok):
        await ask(page, "hello")
    await page.get_by_role("button", name="New conversation").click()
    await page.reload()
    await expect(rows_of(page)).to_have_count(1)
    await expect(rows_of(page).get_by_role("img", name="New answer")).to_have_count(0)
