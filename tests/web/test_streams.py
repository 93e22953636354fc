"""Answers that are being given: through reloads, lost connections, deaths of processes, other tabs and devices."""

from collections.abc import Awaitable, Callable

from playwright.async_api import BrowserContext, CDPSession, Page, expect

from tests.support.stack import Stack
from tests.support.tcp import Line, Way
from tests.support.waiting import wait_until
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import (
    answer_of,
    at_rest,
    box_of,
    bring_to_front,
    come_in,
    new_user,
    put_behind,
    said_in,
    say,
    words,
)

_SILENCE_MS = 46_000  # the page gives a stream up after 45 seconds without a byte
_HIDDEN_MS = 16_000


async def _counted(page: Page) -> int:
    """How many words of the last answer are shown."""
    return len((await answer_of(page).locator(".prose").inner_text()).split())


async def _grown(page: Page, count: int) -> None:
    async def look() -> bool:
        return await _counted(page) >= count

    await expect(answer_of(page).locator(".prose")).to_contain_text("w0")
    await wait_until(look, what=f"{count} words")


async def _expect_words(page: Page, count: int) -> None:
    await expect(answer_of(page).locator(".prose")).to_have_text(words(count))


async def test_each_word_comes_once_through_lost_connections_a_reload_a_second_tab_and_another_device(
    new_device: NewDevice, line: tuple[str, Line], stack: Stack, complaints: Complaints
) -> None:
    complaints.expect_losses()
    user = new_user()
    origin, switch = line
    here = await new_device(origin)
    first = await come_in(here, user)
    await say(first, "[[demo: tokens=400 delay_ms=12]] count")
    await expect(answer_of(first)).to_contain_text("w5")

    address = f"/{await first.evaluate('location.hash')}"
    second = await come_in(here, user, address)
    far = await come_in(await new_device(stack.gateway(1).url), user, address)
    for count in (60, 120):
        await _grown(first, count)
        switch.cut()
        switch.mend()
    await first.reload()
    await _grown(first, 200)
    switch.cut()
    switch.mend()

    for page in (first, second, far):
        await _expect_words(page, 400)
        await expect(said_in(page)).to_have_count(1)


async def test_an_answer_is_stopped_from_any_tab_and_what_was_said_stays(device: BrowserContext) -> None:
    user = new_user()
    first = await come_in(device, user)
    await say(first, "[[demo: fault=endless delay_ms=20]] count")
    await _grown(first, 10)
    second = await come_in(device, user, f"/{await first.evaluate('location.hash')}")
    await _grown(second, 12)

    await second.keyboard.press("Escape")

    for page in (first, second):
        await expect(answer_of(page).get_by_text("Stopped", exact=True)).to_be_visible()
    said = await answer_of(second).locator(".prose").inner_text()
    assert said == words(len(said.split()))
    await expect(answer_of(first).locator(".prose")).to_have_text(said)
    await say(first, "[[demo: echo]] go on")
    await expect(answer_of(first)).to_contain_text("go on")
    await expect(answer_of(second)).to_contain_text("go on")


async def test_a_message_that_is_still_on_its_way_can_be_stopped(new_device: NewDevice, line: tuple[str, Line]) -> None:
    origin, switch = line
    page = await come_in(await new_device(origin), new_user())
    switch.freeze(Way.TO_SERVER)
    await say(page, "[[demo: fault=endless delay_ms=20]] go")
    await expect(said_in(page)).to_contain_text("Sending…")
    await page.get_by_role("button", name="Stop", exact=True).click()
    switch.mend()
    await expect(answer_of(page).get_by_text("Stopped", exact=True)).to_be_visible()
    await at_rest(page)


async def test_an_answer_goes_on_when_its_gateway_was_killed_and_the_page_says_that_it_looks_for_it(
    device: BrowserContext, stack: Stack, complaints: Complaints
) -> None:
    complaints.expect_losses()
    page = await come_in(device, new_user())
    await say(page, "[[demo: tokens=150 delay_ms=20]] count")
    await _grown(page, 10)

    stack.gateway().kill()
    await expect(page.get_by_text("Reconnecting…")).to_be_visible()
    stack.gateway().start()

    await _expect_words(page, 150)
    await expect(page.get_by_text("Reconnecting…")).to_have_count(0)
    await stack.ready()


async def test_an_answer_is_given_anew_when_its_worker_was_killed_and_its_lost_beginning_is_replaced(
    device: BrowserContext, stack: Stack
) -> None:
    page = await come_in(device, new_user())
    await say(page, "[[demo: tokens=120 delay_ms=20]] count")
    await _grown(page, 10)

    worker = stack.processes["chat-worker-0"]
    worker.kill()
    worker.start()

    await _expect_words(page, 120)
    await at_rest(page)
    await page.reload()
    await _expect_words(page, 120)
    await stack.ready()


async def test_heartbeats_keep_a_silent_stream_and_silence_ends_it(
    new_device: NewDevice, line: tuple[str, Line], complaints: Complaints
) -> None:
    complaints.expect_losses()
    origin, switch = line
    device = await new_device(origin)
    page = await come_in(device, new_user())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "stream=true" in request.url else None)
    wire = await device.new_cdp_session(page)
    await wire.send("Network.enable")
    await page.clock.install()
    await say(page, "[[demo: echo first_delay_ms=6000]] patience")
    await expect(page.get_by_text("Thinking…")).to_be_visible()

    for _ in range(2):
        await page.clock.run_for(30_000)
        await _heartbeats(wire)
    assert len(asked) == 1

    switch.freeze()
    await page.clock.run_for(_SILENCE_MS)
    await wait_until(_whether(lambda: len(asked) > 1), what="another connection")
    switch.mend()
    await expect(answer_of(page)).to_contain_text("patience")


async def _heartbeats(wire: CDPSession) -> None:
    """Wait for bytes on both open connections: that of the answer, and that of the feed."""
    heard: set[str] = set()
    wire.on("Network.dataReceived", lambda received: heard.add(received["requestId"]))
    await wait_until(_whether(lambda: len(heard) > 1), what="heartbeats")


def _whether(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return condition()

    return look


async def test_tabs_that_nobody_looks_at_give_their_streams_back_and_catch_up(device: BrowserContext) -> None:
    """HTTP/1.1 allows six connections: without that, the eighth tab would show nothing."""
    user = new_user()
    first = await come_in(device, user)
    await first.clock.install()
    await say(first, "[[demo: echo]] one")
    await expect(answer_of(first)).to_contain_text("one")
    address = f"/{await first.evaluate('location.hash')}"
    for _ in range(6):
        tab = await device.new_page()
        await tab.clock.install()
        await tab.goto(address)
        await expect(answer_of(tab)).to_contain_text("one")
        await put_behind(tab)
        await tab.clock.run_for(_HIDDEN_MS)
    last = await come_in(device, user, address)
    await say(last, "[[demo: tokens=40 delay_ms=10]] two")
    await _expect_words(last, 40)

    await expect(answer_of(first)).to_contain_text("w39")
    assert "w39" not in await answer_of(tab).inner_text()
    await bring_to_front(tab)
    await expect(answer_of(tab)).to_contain_text("w39")
    await expect(box_of(tab)).to_be_editable()
