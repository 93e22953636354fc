"""From the box to the gateway: at once to the eye, once to the server, and never lost on the way."""

import asyncio
import time

from playwright.async_api import BrowserContext, Page, Route, expect

from tests.support.client import Client
from tests.support.stack import Stack
from tests.support.tcp import Line, Way
from tests.support.waiting import wait_until
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import answer_of, ask, at_rest, box_of, come_in, new_user, said_in, say

_COUNT_SHIFTS = """() => {
    window.shifted = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) window.shifted += entry.value;
    }).observe({ type: "layout-shift", buffered: false });
}"""


async def _rows_stored(stack: Stack, user: str, page: Page) -> int:
    """How many messages of the user's the open conversation has at the server."""
    client = Client(stack.gateway().url, user)
    conversation_id = (await page.evaluate("location.hash")).removeprefix("#/")
    listed = (await client.http.get(f"/v1/conversations/{conversation_id}/items?limit=100")).json()
    await client.close()
    return sum(item["type"] == "message" and item["role"] == "user" for item in listed["data"])


async def test_a_message_is_shown_before_the_server_has_it_and_an_answer_takes_the_place_of_thinking(
    new_device: NewDevice, line: tuple[str, Line]
) -> None:
    origin, switch = line
    page = await come_in(await new_device(origin), new_user())
    await ask(page, "[[demo: echo]] one")
    switch.freeze(Way.TO_SERVER)

    await say(page, "[[demo: echo first_delay_ms=3000]] two")
    await expect(said_in(page).last).to_contain_text("two")
    await expect(said_in(page).last).to_contain_text("Sending…")
    await expect(box_of(page)).to_have_value("")
    await expect(box_of(page)).to_be_focused()

    switch.mend()
    await expect(said_in(page).last).not_to_contain_text("Sending…")
    await expect(answer_of(page)).to_have_text("Thinking…")
    await expect(page.get_by_role("status").filter(has_text="Answering…")).to_have_count(1)
    await page.evaluate(_COUNT_SHIFTS)
    await expect(answer_of(page).locator(".prose")).to_have_text("two")
    await expect(page.get_by_text("Thinking…")).to_have_count(0)
    assert await page.evaluate("shifted") < 0.05


async def test_keys_do_what_people_expect_of_them(device: BrowserContext, stack: Stack) -> None:
    user = new_user()
    page = await come_in(device, user)
    box = box_of(page)
    await box.fill("[[demo: echo]] one")
    await box.press("Shift+Enter")
    await box.press_sequentially("line two")
    await box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True})
    await expect(box).to_have_value("[[demo: echo]] one\nline two")
    await page.evaluate(
        """() => {
            for (let times = 0; times < 2; times += 1)
                document.querySelector("#message").dispatchEvent(
                    new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }),
                );
        }"""
    )
    await expect(answer_of(page)).to_contain_text("line two")
    assert await _rows_stored(stack, user, page) == 1

    await say(page, "[[demo: fault=endless delay_ms=20]] go")
    await expect(answer_of(page)).to_contain_text("w3")
    await box.press("Escape")
    await expect(answer_of(page).get_by_text("Stopped", exact=True)).to_be_visible()

    await box.press("ArrowUp")
    editor = page.get_by_label("Edit your message")
    await expect(editor).to_be_focused()
    await editor.press("Escape")
    await expect(box).to_be_focused()

    await page.keyboard.press("ControlOrMeta+k")
    await expect(page.get_by_label("Search", exact=True)).to_be_focused()
    await page.get_by_role("button", name="Hide conversations").first.focus()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()


async def test_what_could_not_be_sent_is_kept_and_sent_once(
    new_device: NewDevice, line: tuple[str, Line], stack: Stack, complaints: Complaints
) -> None:
    complaints.expect_losses()
    user = new_user()
    origin, switch = line
    device = await new_device(origin)
    page = await come_in(device, user)
    await ask(page, "[[demo: echo]] one")

    await device.set_offline(True)
    await say(page, "[[demo: echo]] two")
    await expect(page.get_by_role("alert")).to_contain_text(
        "Not sent. You are offline. It will be sent when you are back."
    )
    await expect(page.get_by_text("You are offline. What you write is kept.")).to_be_visible()
    await box_of(page).fill("a draft")
    await device.set_offline(False)
    await expect(answer_of(page)).to_contain_text("two")
    await expect(page.get_by_role("alert")).to_have_count(0)

    # The server has it, and the page does not know.
    switch.freeze(Way.TO_CLIENT)
    async with page.expect_request(lambda request: request.method == "POST"):
        await say(page, "[[demo: echo]] three")
    await _until_stored(stack, user, page, 3)
    switch.cut()
    await expect(page.get_by_role("alert")).to_contain_text("Not sent. Parley could not be reached.")
    await box_of(page).fill("another draft")
    switch.mend()
    # At once, or not: the page may have heard of it from the conversation's feed, and offers nothing any more.
    await page.get_by_role("button", name="Try again").evaluate_all("buttons => buttons.forEach((it) => it.click())")
    await expect(answer_of(page)).to_contain_text("three")
    await expect(page.get_by_role("alert")).to_have_count(0)

    await page.reload()
    await expect(answer_of(page)).to_contain_text("three")
    await expect(box_of(page)).to_have_value("another draft")
    await expect(said_in(page)).to_have_count(3)
    assert await _rows_stored(stack, user, page) == 3


async def test_what_is_said_before_a_conversation_has_opened_is_said_in_it(
    device: BrowserContext, stack: Stack
) -> None:
    user = new_user()
    before = await come_in(device, user)
    await ask(before, "[[demo: echo]] one")
    page = await device.new_page()
    release = asyncio.Event()

    async def hold(route: Route) -> None:
        await release.wait()
        await route.continue_()

    await page.route("**/v1/conversations/*/items*", hold)
    await page.clock.install()
    await page.clock.pause_at(time.time() + 60)  # no matter how quick a reader is
    async with page.expect_response("**/v1/models"):
        await page.goto(f"/{await before.evaluate('location.hash')}")
    await say(page, "[[demo: echo]] two")
    await page.clock.resume()
    release.set()
    await expect(answer_of(page)).to_contain_text("two")
    await expect(said_in(page)).to_have_count(2)
    await expect(answer_of(before)).to_contain_text("two")
    assert await _rows_stored(stack, user, before) == 2


async def _until_stored(stack: Stack, user: str, page: Page, count: int) -> None:
    async def look() -> bool:
        return await _rows_stored(stack, user, page) == count

    await wait_until(look, what=f"{count} messages stored")


async def test_what_was_not_sent_survives_its_tab_and_can_be_taken_back(
    new_device: NewDevice, line: tuple[str, Line], complaints: Complaints
) -> None:
    complaints.expect_losses()
    origin, switch = line
    device = await new_device(origin)
    user = new_user()
    page = await come_in(device, user)
    await ask(page, "[[demo: echo]] one")
    address = f"/{await page.evaluate('location.hash')}"
    switch.cut()
    await say(page, "[[demo: echo]] two")
    await expect(page.get_by_role("alert")).to_be_visible()
    await say(page, "[[demo: echo]] three")
    await expect(page.get_by_role("alert")).to_have_count(2)
    await page.get_by_role("button", name="Take back").last.click()
    await expect(box_of(page)).to_have_value("[[demo: echo]] three")
    await page.close()

    switch.mend()
    page = await come_in(device, user, address)
    await expect(answer_of(page)).to_contain_text("two")
    await at_rest(page)
    await expect(said_in(page)).to_have_count(2)
    await expect(box_of(page)).to_have_value("[[demo: echo]] three")
