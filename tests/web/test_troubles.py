"""What goes wrong is told in words, with what to do about it; and nothing that was written is lost."""

import contextlib
import re

import pytest
from playwright.async_api import BrowserContext, Page, Request, expect

from tests.support.client import Client
from tests.support.stack import Stack, token_of
from tests.support.tcp import Line
from tests.support.waiting import wait_until
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import (
    answer_of,
    ask,
    at_rest,
    box_of,
    come_in,
    enter_token,
    new_user,
    put_behind,
    said_in,
    say,
    words,
)

_ENDED = "Your session has ended. Nothing is lost."


async def test_an_answer_that_failed_says_so_and_is_asked_for_again(device: BrowserContext) -> None:
    user = new_user()
    page = await come_in(device, user)
    await ask(page, f"[[demo: echo fault=400 fault_times=1 key={user}]] once more")

    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("This could not be answered.")
    await expect(alert).to_contain_text("Your message is kept.")
    await expect(alert).to_contain_text(re.compile(r"Reference: resp_[0-9a-f]+"))
    await page.reload()
    await expect(alert).to_contain_text("This could not be answered.")
    await alert.get_by_role("button", name="Try again").click()

    await expect(answer_of(page)).to_contain_text("once more")
    await expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()


async def test_limits_and_outages_are_told_with_the_time_of_the_next_try(
    new_device: NewDevice, stack: Stack, database_line: tuple[str, Line], complaints: Complaints
) -> None:
    complaints.expect(429, 503)
    page = await come_in(await new_device(stack.gateway(1).url), new_user())
    await say(page, "[[demo: fault=endless delay_ms=20]] go on for ever")
    await expect(answer_of(page)).to_contain_text("w3")

    await say(page, "[[demo: echo]] and this")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("Not sent. You have reached a limit. Too many of your responses")
    await expect(alert).to_contain_text(re.compile(r"Trying again at \d\d:\d\d"))
    await page.keyboard.press("Escape")
    await expect(answer_of(page).get_by_text("Stopped", exact=True)).to_be_visible()
    await expect(answer_of(page)).to_contain_text("and this")  # when it was said that it would be

    database_line[1].cut()
    await say(page, "[[demo: echo]] and that")
    await expect(alert).to_contain_text("Not sent. Parley is busy right now.")
    await expect(alert).to_contain_text(re.compile(r"Trying again at \d\d:\d\d"))
    database_line[1].mend()
    await expect(answer_of(page)).to_contain_text("and that")
    await expect(said_in(page)).to_have_count(3)


async def test_a_change_that_comes_too_late_is_told(
    device: BrowserContext, stack: Stack, complaints: Complaints
) -> None:
    """Branches stay as they are while something is answered, which a tab that sleeps does not know of: 409."""
    complaints.expect(409)
    under_way: set[Request] = set()

    def begins(request: Request) -> None:
        under_way.add(request)

    def is_over(request: Request) -> None:
        under_way.discard(request)

    device.on("request", begins)
    device.on("requestfinished", is_over)
    device.on("requestfailed", is_over)
    user = new_user()
    page = await come_in(device, user)
    await page.clock.install()
    await ask(page, "[[demo: echo]] one")
    await answer_of(page).get_by_role("button", name="Answer again").click()
    await expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    await at_rest(page)
    previous = page.get_by_role("button", name="Previous version")
    await expect(previous).to_be_enabled()  # it has heard, too, that nothing runs in the conversation any more
    await put_behind(page)
    await page.clock.run_for(16_000)

    async def is_asleep() -> bool:
        """Its streams are given back, and what it asked before is answered."""
        return not under_way

    await wait_until(is_asleep)
    client = Client(stack.gateway().url, user)
    conversation = (await page.evaluate("location.hash")).removeprefix("#/")
    running = await client.create("[[demo: tokens=500 delay_ms=20]] go", conversation=conversation, background=True)

    await previous.click()

    await expect(page.get_by_text("That did not work. Try again.")).to_be_visible()
    await client.http.post(f"/v1/responses/{running['id']}/cancel")
    await client.close()


async def test_a_token_that_ends_in_mid_answer_is_asked_for_anew_and_the_answer_goes_on(
    page: Page, complaints: Complaints
) -> None:
    complaints.expect(401)
    user, count = await _counting_with_a_token_that_ends(page)
    await box_of(page).fill("[[demo: echo]] written meanwhile")

    banner = page.get_by_role("alert").filter(has_text=_ENDED)
    await expect(banner).to_be_visible()
    await box_of(page).press("Enter")
    await expect(page.get_by_text("Not sent. You are signed out. Sign in to send it.")).to_be_visible()
    await banner.get_by_role("button", name="Sign in again").click()
    await enter_token(page, token_of(user))

    await expect(answer_of(page)).to_contain_text("written meanwhile")
    await expect(page.get_by_role("article", name="Assistant").first.locator(".prose")).to_have_text(words(count))
    await expect(said_in(page)).to_have_count(2)


async def _counting_with_a_token_that_ends(page: Page) -> tuple[str, int]:
    """The user, and how many words are being counted for longer than the token lasts; a busy machine gets more time."""
    for lifetime in (5, 20, 60):
        user, count = new_user(), lifetime * 60
        await page.goto("/")
        await enter_token(page, token_of(user, lifetime_seconds=lifetime))
        with contextlib.suppress(AssertionError):
            await expect(box_of(page)).to_be_visible(timeout=lifetime * 1000)
            await say(page, f"[[demo: tokens={count} delay_ms=25]] count")
            await expect(answer_of(page)).to_contain_text("w3", timeout=lifetime * 1000)
            return user, count
        await page.evaluate("sessionStorage.clear()")
    pytest.fail("no answer had begun before its token ended")


async def test_a_session_renewed_by_another_tab_is_taken_on_quietly_and_one_that_ended_is_not(
    device: BrowserContext, complaints: Complaints
) -> None:
    complaints.expect(401, 403)
    user = new_user()
    page = await come_in(device, user)
    await device.request.post("/session/dev", data={"user_id": user})
    await ask(page, "[[demo: echo]] one")
    await expect(answer_of(page)).to_contain_text("one")
    await expect(page.get_by_role("alert")).to_have_count(0)

    await device.clear_cookies()
    await say(page, "[[demo: echo]] two")
    await expect(page.get_by_role("alert").filter(has_text=_ENDED)).to_be_visible()
    await expect(page.get_by_text("Not sent. You are signed out. Sign in to send it.")).to_be_visible()
    await page.get_by_role("button", name="Sign in again").click()
    await page.get_by_label("Your name").fill(user)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(answer_of(page)).to_contain_text("two")
    await expect(said_in(page)).to_have_count(2)


async def test_a_gateway_that_is_away_is_waited_for_at_the_door_and_in_the_conversation(
    new_device: NewDevice, line: tuple[str, Line], complaints: Complaints
) -> None:
    complaints.expect_losses()
    origin, switch = line
    device = await new_device(origin)
    user = new_user()
    page = await come_in(device, user)
    await ask(page, "[[demo: echo]] one")
    home = await page.evaluate("location.hash")
    await page.get_by_role("button", name="New conversation").click()
    switch.cut()
    await page.evaluate("(hash) => { location.hash = hash; }", home)
    await expect(page.get_by_role("heading", name="The conversation could not be loaded")).to_be_visible()
    switch.mend()
    await page.get_by_role("button", name="Try again").click()
    await expect(answer_of(page)).to_contain_text("one")

    # The page comes from a cache in front of a gateway that is away.
    await page.route("**/session", lambda route: route.abort())
    await page.reload()
    await expect(page.get_by_role("heading", name="Parley does not answer")).to_be_visible()
    await page.unroute("**/session")
    await page.get_by_role("button", name="Try now").click()
    await expect(answer_of(page)).to_contain_text("one")
