"""The widget, on a page of another site with a strict policy of its own, in a real browser."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest
from playwright.async_api import Browser, BrowserContext, Frame, FrameLocator, Locator, Page, Route, expect

from deploy.local.ports import LOOPBACK
from tests.support.stack import JWT_SECRET, Stack, token_of
from tests.support.waiting import wait_until
from tests.web import axe
from tests.web.conftest import WAIT_MS, Complaints

_ROOT = Path(__file__).parents[2]
_PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}
_LOADER_BYTES_MAX = 2 * 1024

Visit: TypeAlias = Callable[..., Awaitable[Page]]


class Visitor:
    """Somebody at the shop, whose token endpoint gives tokens of `lifetime_seconds`, or none for 0."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.lifetime_seconds = 3600.0
        self.asked = 0

    async def give_token(self, route: Route) -> None:
        self.asked += 1
        token = token_of(self.user, lifetime_seconds=self.lifetime_seconds) if self.lifetime_seconds else None
        await route.fulfill(json={"token": token})


@pytest.fixture(scope="package")
async def shop(stack: Stack, host_origin: str) -> AsyncIterator[str]:
    """The origin of a site that shows the widget: the demo host, run as people run it."""
    port = urlsplit(host_origin).port
    command = [sys.executable, str(_ROOT / "web/demo/host.py"), "--port", str(port), "--parley", stack.gateway().url]
    process = subprocess.Popen(command, env={**os.environ, "JWT_SECRET": JWT_SECRET})  # noqa: ASYNC220 - goes on

    async def is_there() -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await wait_until(is_there, seconds=20, what="the host page")
        yield host_origin
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def visitor() -> Visitor:
    return Visitor(f"visitor-{uuid4().hex[:8]}")


@pytest.fixture
async def visit(
    browser: Browser, shop: str, stack: Stack, visitor: Visitor, complaints: Complaints
) -> AsyncIterator[Visit]:
    """Opens the shop in a new browser; words are attributes of the script, `device` options of the browser."""
    contexts: list[BrowserContext] = []

    async def go(device: dict[str, object] | None = None, **attributes: str) -> Page:
        context = await browser.new_context(**{"locale": "en-GB", "base_url": shop, **(device or {})})  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        await context.route("**/parley-token", visitor.give_token)
        page = await context.new_page()
        complaints.listen(page, shop, stack.gateway().url)
        await page.goto(f"/?{urlencode(attributes)}")
        await button_of(page).wait_for()
        return page

    yield go
    for context in contexts:
        await context.close()


def button_of(page: Page) -> Locator:
    return page.locator("parley-widget").get_by_role("button")


def panel_of(page: Page) -> Locator:
    return page.locator("parley-widget").get_by_role("dialog")


def widget_of(page: Page) -> FrameLocator:
    return page.frame_locator("parley-widget iframe")


def box_of(page: Page) -> Locator:
    return widget_of(page).get_by_label("Message", exact=True)


def answer_of(page: Page) -> Locator:
    return widget_of(page).get_by_role("article", name="Assistant").last


def frame_of(page: Page) -> Frame:
    return next(frame for frame in page.frames if "/embed" in frame.url)


async def open_widget(page: Page) -> None:
    await button_of(page).click()
    await expect(box_of(page)).to_be_visible()


async def ask(page: Page, text: str) -> None:
    await box_of(page).fill(text)
    await box_of(page).press("Enter")


def test_the_loader_is_no_burden_for_a_host_page(built_page: Path) -> None:
    assert (built_page / "widget.js.gz").stat().st_size <= _LOADER_BYTES_MAX


async def test_only_the_script_is_fetched_until_the_button_is_pressed_and_then_it_opens_at_once(
    visit: Visit, visitor: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    page = await visit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    await page.reload(wait_until="networkidle")
    assert sorted(asked) == ["/", "/shop.css", "/shop.js", "/widget.js"]
    assert visitor.asked == 0

    times = []
    for _ in range(2):
        begun = time.perf_counter()
        await open_widget(page)
        times.append(time.perf_counter() - begun)
        await expect(box_of(page)).to_be_focused()
        await box_of(page).press("Escape")
        await expect(panel_of(page)).to_be_hidden()
    with capsys.disabled():
        first, second = (round(seconds * 1000) for seconds in times)
        sys.stdout.write(f"\nthe widget opened within {first} ms, the second time within {second} ms\n")
    assert max(times) < 5  # the aim is 0.3; a busy machine is not the widget's fault


async def test_a_conversation_with_a_tool_goes_on_after_a_reload_of_the_host_page_without_any_cookie(
    visit: Visit,
) -> None:
    page = await visit()
    await open_widget(page)
    steps = await page.evaluate("history.length")
    await ask(page, "add a task: water the fern")
    await expect(answer_of(page)).to_contain_text("I added “water the fern”.")
    await expect(answer_of(page).locator("details.tool")).to_contain_text("done")

    await page.reload()
    await open_widget(page)
    await expect(answer_of(page)).to_contain_text("I added “water the fern”.")
    await widget_of(page).get_by_role("button", name="New conversation").click()
    await expect(answer_of(page)).to_have_count(0)
    await widget_of(page).get_by_role("button", name="Show conversations").click()
    await widget_of(page).get_by_role("navigation").get_by_role("link").click()
    await expect(answer_of(page)).to_contain_text("I added “water the fern”.")
    assert await page.evaluate("history.length") == steps
    assert await page.context.cookies() == []


async def test_a_token_that_ends_is_asked_for_again_and_the_conversation_goes_on(
    visit: Visit, visitor: Visitor, complaints: Complaints
) -> None:
    complaints.expect(401)
    visitor.lifetime_seconds = 2
    page = await visit()
    await open_widget(page)
    visitor.lifetime_seconds = 3600

    async def has_been_asked_again() -> bool:
        return visitor.asked > 1

    await wait_until(has_been_asked_again, seconds=10, what="another token")
    await ask(page, "hello")
    await expect(answer_of(page).locator(".prose")).not_to_be_empty()
    await expect(widget_of(page).get_by_role("alert")).to_have_count(0)


async def test_a_visitor_whom_the_host_does_not_know_is_told_so_and_may_try_again(
    visit: Visit, visitor: Visitor
) -> None:
    visitor.lifetime_seconds = 0
    page = await visit(language="de")
    await expect(button_of(page)).to_have_accessible_name("Chat öffnen")
    await button_of(page).click()
    await expect(widget_of(page).get_by_role("alert")).to_contain_text("Wer sind Sie?")
    visitor.lifetime_seconds = 3600
    await widget_of(page).get_by_role("button", name="Erneut versuchen").click()
    await expect(widget_of(page).get_by_label("Nachricht", exact=True)).to_be_focused()


async def test_neither_side_hears_messages_of_another_origin_or_window(
    visit: Visit, visitor: Visitor, stack: Stack, shop: str
) -> None:
    page = await visit()
    held: list[Route] = []

    async def hold(route: Route) -> None:
        held.append(route)

    await page.context.route("**/parley-token", hold)
    await button_of(page).click()
    await wait_until(_is_true(lambda: bool(held)), seconds=10, what="the question for a token")

    say = """([data, origin, isFromParent]) => {
        const source = isFromParent ? parent : window;
        dispatchEvent(new MessageEvent("message", { data, origin, source }));
    }"""
    forged = {"parley": "token", "id": 1, "token": token_of("mallory")}
    await frame_of(page).evaluate(say, [forged, "http://evil.example", True])
    await frame_of(page).evaluate(say, [forged, shop, False])
    await expect(box_of(page)).to_have_count(0)
    await visitor.give_token(held[0])
    await expect(box_of(page)).to_be_focused()

    ours = stack.gateway().url
    tell = """([data, origin, isFromFrame]) => {
        const frame = document.querySelector("parley-widget").shadowRoot.querySelector("iframe");
        const source = isFromFrame ? frame.contentWindow : window;
        dispatchEvent(new MessageEvent("message", { data, origin, source }));
    }"""
    for message in (
        {"parley": "unread", "badge": "7", "text": "7"},
        {"parley": "token?", "id": 9},
        {"parley": "close"},
    ):
        await page.evaluate(tell, [message, "http://evil.example", True])
        await page.evaluate(tell, [message, ours, False])
    assert await panel_of(page).is_visible()
    assert await page.locator("parley-widget b").text_content() == ""
    assert len(held) == 1


def _is_true(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def checked() -> bool:
        return check()

    return checked


async def test_a_site_that_is_not_allowed_gets_no_frame_and_says_so(browser: Browser, shop: str) -> None:
    context = await browser.new_context()
    try:
        page = await context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text))
        await page.clock.install()
        await page.goto(shop.replace("localhost", LOOPBACK))  # another origin
        await button_of(page).click()
        await wait_until(_is_true(lambda: any("frame-ancestors" in text for text in errors)), what="the refusal")
        await page.clock.run_for(10_000)
        await expect(panel_of(page)).to_have_text("Not available right now.")
    finally:
        await context.close()


async def test_rules_of_the_host_page_do_not_reach_the_widget(visit: Visit) -> None:
    page = await visit(hostile="1")
    assert await button_of(page).bounding_box() == {"x": 1204, "y": 644, "width": 56, "height": 56}
    await open_widget(page)
    await ask(page, "hello")
    await expect(answer_of(page).locator(".prose")).not_to_be_empty()
    box = await panel_of(page).bounding_box()
    assert box is not None
    assert (box["x"] + box["width"], box["width"]) == (1260, 400)


async def test_it_fills_the_screen_of_a_phone_and_gives_the_focus_back(visit: Visit) -> None:
    page = await visit(_PHONE)
    await button_of(page).tap()
    await expect(widget_of(page).get_by_role("heading", name="Fern & Fig")).to_be_focused()
    assert await panel_of(page).bounding_box() == {"x": 0, "y": 0, "width": 375, "height": 667}
    assert await panel_of(page).evaluate("dialog => dialog.matches(':modal')")
    assert await box_of(page).evaluate("box => parseFloat(getComputedStyle(box).fontSize)") >= 16
    assert await frame_of(page).evaluate("document.documentElement.scrollWidth <= innerWidth")
    await widget_of(page).get_by_role("button", name="Close chat").tap()
    await expect(panel_of(page)).to_be_hidden()
    await expect(button_of(page)).to_be_focused()


async def test_by_keyboard_alone_it_is_opened_used_and_left(visit: Visit) -> None:
    page = await visit()
    await expect(button_of(page)).to_have_accessible_name("Open chat")
    await expect(button_of(page)).to_have_attribute("aria-expanded", "false")
    await button_of(page).press("Enter")
    await expect(box_of(page)).to_be_focused()
    await expect(button_of(page)).to_have_accessible_name("Close chat")
    await expect(button_of(page)).to_have_attribute("aria-expanded", "true")
    await expect(panel_of(page)).to_have_accessible_name("Fern & Fig")

    await widget_of(page).get_by_role("button", name="Show conversations").press("Enter")
    in_list = widget_of(page).get_by_role("navigation")
    await expect(in_list.get_by_role("button", name="New conversation")).to_be_focused()
    await page.keyboard.press("Escape")  # leaves the list first
    await expect(widget_of(page).get_by_role("navigation")).to_have_count(0)
    await expect(panel_of(page)).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(panel_of(page)).to_be_hidden()
    await expect(button_of(page)).to_be_focused()


async def test_an_answer_that_comes_while_it_is_closed_is_counted_on_the_button(visit: Visit) -> None:
    page = await visit()
    await open_widget(page)
    is_closed = asyncio.Event()

    async def hold(route: Route) -> None:
        await is_closed.wait()
        await route.continue_()

    # Over before anybody could close it, an answer is none that came while it was closed.
    await page.route("**/v1/responses/*stream=true*", hold)
    await ask(page, "[[demo: tokens=20]] tell me")
    await box_of(page).press("Escape")
    await expect(panel_of(page)).to_be_hidden()
    is_closed.set()
    badge = page.locator("parley-widget b")
    await expect(badge).to_have_text("1")
    await expect(button_of(page)).to_have_accessible_name("Open chat 1 new answer")
    await expect(page.locator("parley-widget [role=status]")).to_have_text("1 new answer")
    await open_widget(page)
    await expect(badge).to_have_text("")
    await expect(answer_of(page)).to_be_in_viewport()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_nothing_is_found_by_axe_closed_and_open_and_the_accent_is_the_hosts(visit: Visit, theme: str) -> None:
    page = await visit(theme=theme, accent="#f2c14e", position="left")
    assert await axe.violations(page) == []
    await open_widget(page)
    assert await axe.violations(frame_of(page)) == []
    await ask(page, "add a task: water the fig")
    await expect(answer_of(page)).to_contain_text("I added")
    assert await axe.violations(page) == []
    assert await axe.violations(frame_of(page)) == []
    look = await frame_of(page).evaluate("[getComputedStyle(document.body).colorScheme, document.body.style.length]")
    assert look == [theme, 0]
    assert await button_of(page).evaluate("button => getComputedStyle(button).backgroundColor") == "rgb(242, 193, 78)"
    box = await panel_of(page).bounding_box()
    assert box is not None
    assert box["x"] == 20


async def test_it_outlives_the_pages_of_a_single_page_application_and_goes_when_it_is_told(visit: Visit) -> None:
    page = await visit()
    await open_widget(page)
    await ask(page, "hello")
    await expect(answer_of(page).locator(".prose")).not_to_be_empty()
    await page.get_by_role("link", name="Care").press("Enter")
    await expect(page.get_by_role("heading", name="Care")).to_be_visible()
    await expect(answer_of(page).locator(".prose")).not_to_be_empty()

    again = """() => new Promise((resolve) => {
        const old = document.querySelector("script[src*='widget.js']");
        const script = Object.assign(document.createElement("script"), { onload: resolve });
        for (const { name, value } of old.attributes) if (name !== "src") script.setAttribute(name, value);
        const policy = globalThis.policy ??= trustedTypes.createPolicy("test", { createScriptURL: (url) => url });
        script.src = policy.createScriptURL(old.src);
        document.head.append(script);
    })"""
    await page.evaluate(again)
    await expect(page.locator("parley-widget")).to_have_count(1)
    await page.evaluate("document.documentElement.replaceChild(document.createElement('body'), document.body)")
    await expect(page.locator("parley-widget")).to_have_count(1)
    await page.evaluate("Parley.destroy()")
    await expect(page.locator("parley-widget")).to_have_count(0)
    await page.evaluate(again)
    await page.evaluate("Parley.open()")
    await expect(answer_of(page).locator(".prose")).not_to_be_empty()
    await page.evaluate("Parley.close()")
    await expect(panel_of(page)).to_be_hidden()


async def test_it_works_where_the_browser_keeps_nothing_for_frames(visit: Visit) -> None:
    page = await visit()
    await page.add_init_script("""if (window !== parent) for (const name of ["localStorage", "sessionStorage"])
        Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });""")
    await page.reload()
    await open_widget(page)
    await ask(page, "hello")
    await expect(answer_of(page).locator(".prose")).not_to_be_empty()
