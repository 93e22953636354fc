"""For everybody: by keyboard, by ear, in both themes, on small screens, without motion, in other languages."""

import re
from collections.abc import Mapping

import pytest
from playwright.async_api import BrowserContext, Page, expect

from deploy.local.places import Places
from tests.support.client import Client
from tests.support.stack import Stack
from tests.web import axe
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import answer_of, ask, at_rest, box_of, come_in, new_user, region_of, rows_of, said_in, say

_PHONE: Mapping[str, object] = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}
_MARKDOWN = """\
# Head

A [link](https://example.org) and `code`.

```js
x = 1
```

| a |
|---|
| 1 |"""


async def _focused(page: Page) -> str:
    """The accessible name of what has the focus, or its tag."""
    name: str = await page.evaluate(
        """() => {
            const { activeElement: element } = document;
            return element.getAttribute("aria-label") || element.textContent.trim() || element.tagName;
        }"""
    )
    return name


class Looks:
    """What axe finds in each state of the page that it is shown."""

    def __init__(self) -> None:
        self.found: list[str] = []

    async def at(self, page: Page, state: str) -> None:
        self.found += [f"{state}: {violation}" for violation in await axe.violations_in_both_themes(page)]


async def test_axe_finds_nothing_in_any_state_in_either_theme(
    new_device: NewDevice, stack: Stack, complaints: Complaints
) -> None:
    complaints.expect(401, 404)
    complaints.expect_losses()
    # The policy of the page would keep axe out, which is no file of ours.
    device = await new_device(reduced_motion="reduce", bypass_csp=True)
    user = new_user()
    looks = Looks()
    door = await device.new_page()
    await door.goto("/")
    await door.get_by_label("Your name").wait_for()
    await looks.at(door, "door")
    await door.close()
    page = await come_in(device, user)
    await expect(page.get_by_text("No conversations yet.")).to_be_visible()
    await looks.at(page, "empty")

    await _look_at_answers(page, looks)
    await _look_at_an_approval(page, looks, stack, user)
    await _look_at_a_running_answer(page, looks)
    await _look_at_the_list(page, looks)
    await _look_at_troubles(page, looks, device)

    assert not looks.found, "\n".join(looks.found)


async def _look_at_answers(page: Page, looks: Looks) -> None:
    await ask(page, "add a task: buy milk")
    await page.locator("details.tool summary").click()
    await looks.at(page, "tool done")
    await ask(page, '[[demo: call=complete_task args={"task_id": "none"}]] go')
    await page.locator("details.tool summary").last.click()
    await looks.at(page, "tool failed")
    await ask(page, f"[[demo: echo reasoning=5]] {_MARKDOWN}")
    await looks.at(page, "markdown")
    await ask(page, "[[demo: fault=400]] no")
    await looks.at(page, "error")
    await answer_of(page).get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    await at_rest(page)
    await looks.at(page, "branch")


async def _look_at_an_approval(page: Page, looks: Looks, stack: Stack, user: str) -> None:
    client = Client(stack.gateway().url, user)
    conversation = (await page.evaluate("location.hash")).removeprefix("#/")
    tools = [{"type": "mcp", "server_label": "tasks", "require_approval": "always"}]
    await client.create("add a task: buy bread", model="todo", conversation=conversation, tools=tools)
    await client.close()
    await expect(page.get_by_role("button", name="Allow")).to_be_visible()
    await looks.at(page, "approval")


async def _look_at_a_running_answer(page: Page, looks: Looks) -> None:
    await page.get_by_role("button", name="New conversation").click()
    await say(page, "[[demo: fault=endless delay_ms=20]] go")
    await expect(answer_of(page)).to_contain_text("w5")
    await looks.at(page, "streaming")
    await page.keyboard.press("Escape")
    await expect(answer_of(page).get_by_text("Stopped", exact=True)).to_be_visible()
    await looks.at(page, "stopped")


async def _look_at_the_list(page: Page, looks: Looks) -> None:
    await page.keyboard.press("ControlOrMeta+k")
    await page.get_by_label("Search", exact=True).fill("milk")
    await expect(rows_of(page)).to_have_count(1)
    await looks.at(page, "search")
    await page.get_by_label("Search", exact=True).fill("")
    await rows_of(page).first.hover()
    await rows_of(page).first.locator("summary").click()
    await looks.at(page, "menu")
    await page.get_by_role("button", name="Keyboard shortcuts").click()
    await looks.at(page, "help")
    await page.keyboard.press("Escape")


async def _look_at_troubles(page: Page, looks: Looks, device: BrowserContext) -> None:
    await device.set_offline(True)
    await say(page, "[[demo: echo]] offline")
    await expect(page.get_by_role("alert")).to_be_visible()
    await looks.at(page, "offline")
    await device.set_offline(False)
    await expect(answer_of(page)).to_contain_text("offline")
    await page.evaluate("location.hash = '/conv_00000000000000000000000000000000'")
    await expect(page.get_by_role("heading", name="This conversation is not here")).to_be_visible()
    await looks.at(page, "gone")
    await page.get_by_role("button", name="Start a new conversation").click()
    size = page.viewport_size
    assert size
    await page.set_viewport_size({"width": 375, "height": 667})
    await looks.at(page, "phone, with the list over it")
    await page.set_viewport_size(size)
    await device.clear_cookies()
    await say(page, "hello")
    await expect(page.get_by_text("Your session has ended. Nothing is lost.")).to_be_visible()
    await looks.at(page, "expired")


async def test_everything_is_reached_by_keyboard_and_the_focus_comes_back(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await ask(page, "[[demo: echo]] one")
    skip = page.get_by_role("link", name="Skip to the message box")
    assert await skip.evaluate(
        "(link) => link === document.querySelector('a, button, input, textarea, select, summary, [tabindex]')"
    )
    await skip.focus()
    await page.keyboard.press("Enter")
    await expect(box_of(page)).to_be_focused()

    await skip.focus()
    reached: list[str] = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement === document.body || document.activeElement.matches('.skip')"):
            break
        name = await _focused(page)
        reached.append(name)
        outline = await page.evaluate(
            """() => {
                const { activeElement: element } = document;
                return [element, element.closest(".composer, .search") ?? element].some((each) => {
                    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(each);
                    return (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none";
                });
            }"""
        )
        assert outline, name
    else:
        pytest.fail(f"the focus does not leave the page: {reached}")
    for name in (
        "New conversation",
        "Search",
        "Archive",
        "Edit",
        "Copy",
        "Answer again",
        "Message",
        "Keyboard shortcuts",
    ):
        assert name in reached, f"{name} is not among {reached}"

    edit = said_in(page).get_by_role("button", name="Edit")
    await edit.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Edit your message")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(box_of(page)).to_be_focused()

    options = rows_of(page).first.locator("summary")
    await options.focus()
    await page.keyboard.press("Enter")
    await expect(rows_of(page).first.get_by_role("button", name="Rename")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(options).to_be_focused()

    again = answer_of(page).get_by_role("button", name="Answer again")
    await again.focus()
    await page.keyboard.press("Enter")  # which takes the button away
    await expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    await expect(box_of(page)).to_be_focused()
    await at_rest(page)

    opener = page.get_by_role("button", name="Keyboard shortcuts")
    await opener.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(opener).to_be_focused()


async def test_an_answer_is_told_in_two_sentences_and_never_read_out_as_it_grows(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await ask(page, "[[demo: echo]] one")
    await page.evaluate(
        """() => {
            window.told = [];
            new MutationObserver((changes) => {
                for (const { target } of changes) {
                    const element = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
                    const live = element?.closest("[role=status], [role=alert], [role=log], [aria-live=polite]");
                    const text = live?.textContent ?? "";
                    if (live && text !== "" && window.told.at(-1) !== text) window.told.push(text);
                }
            }).observe(document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    await ask(page, "[[demo: echo delay_ms=10]] two three four")
    await expect(page.get_by_role("status").filter(has_text="The answer is complete.")).to_have_count(1)
    assert await page.evaluate("told") == ["Answering…", "The answer is complete."]
    await say(page, "[[demo: fault=endless delay_ms=10]] go")
    await expect(answer_of(page)).to_contain_text("w3")
    await page.keyboard.press("Escape")
    await at_rest(page)
    await ask(page, "[[demo: fault=400]] go")
    told: list[str] = await page.evaluate("told.slice(2)")
    assert [each for each in told if len(each) < 60] == [
        "Answering…",
        "The answer was stopped.",
        "Answering…",
        "The answer failed.",
    ]
    await expect(page.get_by_role("alert")).to_have_count(1)


async def test_nothing_moves_for_those_who_want_no_motion(new_device: NewDevice) -> None:
    page = await come_in(await new_device(reduced_motion="reduce"), new_user())
    for knobs, sign in (("first_delay_ms=600000", "Thinking…"), ("fault=endless delay_ms=20", "w5")):
        await say(page, f"[[demo: {knobs}]] go")
        await expect(answer_of(page)).to_contain_text(sign)  # and it stays so until it is stopped
        durations = await page.evaluate(
            "document.getAnimations().map((each) => each.effect.getComputedTiming()).map((each) => each.activeDuration)"
        )
        assert all(duration <= 1 for duration in durations), durations
        await page.keyboard.press("Escape")
        await at_rest(page)


async def test_the_theme_is_that_of_the_reader_from_the_first_paint(
    new_device: NewDevice, complaints: Complaints
) -> None:
    complaints.expect_losses()
    shades = {}
    for scheme in ("light", "dark"):
        page = await (await new_device(color_scheme=scheme)).new_page()
        await page.route("**/*.js", lambda route: route.abort())  # what is painted before any script ran
        await page.goto("/", wait_until="load")
        color = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        picture = await page.screenshot(clip={"x": 5, "y": 5, "width": 4, "height": 4})
        shades[scheme] = (color, picture)
        await page.unroute_all()
    assert shades["light"][0] != shades["dark"][0]
    assert shades["light"][1] != shades["dark"][1]


async def test_a_small_screen_shows_the_box_whole_and_the_list_as_a_drawer(new_device: NewDevice) -> None:
    user = new_user()
    page = await come_in(await new_device(**_PHONE), user)
    await ask(page, "[[demo: echo]] | a | b |\n|---|---|\n| " + "wide" * 60 + " | 2 |")
    for width, height in ((375, 667), (375, 330), (320, 568), (640, 400)):
        await page.set_viewport_size({"width": width, "height": height})
        await expect(box_of(page)).to_be_in_viewport(ratio=1)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    assert await box_of(page).evaluate("(box) => parseFloat(getComputedStyle(box).fontSize)") >= 16
    assert "interactive-widget=resizes-content" in (
        await page.locator("meta[name=viewport]").get_attribute("content") or ""
    )
    small = await page.evaluate(
        """() => [...document.querySelectorAll("button, a, summary, input, select")]
            .map((each) => [each, each.getBoundingClientRect()])
            .filter(([each, { width, height }]) => width > 0 && (width < 24 || height < 24)
                && !each.closest(".prose, .skip, label"))
            .map(([each]) => each.outerHTML.slice(0, 120))"""
    )
    assert small == []

    await page.get_by_role("button", name="Show conversations").click()
    await rows_of(page).first.get_by_role("link").click()
    await expect(page.get_by_role("navigation", name="Conversations")).to_have_count(0)
    await expect(region_of(page)).to_be_visible()

    opener = page.get_by_role("button", name="Show tasks")
    tasks = page.get_by_role("complementary", name="Tasks")
    await opener.focus()
    await page.keyboard.press("Enter")
    await expect(tasks.get_by_role("button", name="Hide tasks")).to_be_focused()
    assert await page.locator(".middle").evaluate("(covered) => covered.inert")
    await page.keyboard.press("Escape")
    await expect(tasks).to_have_count(0)
    await expect(opener).to_be_focused()
    await opener.tap()
    await page.touchscreen.tap(10, 300)  # beside it
    await expect(tasks).to_have_count(0)


def _english() -> list[str]:
    """The sentences of the catalogue that a page in another language must not show."""
    source = (Places.of().root / "web" / "src" / "i18n" / "en.ts").read_text()
    return [text for text in re.findall(r'"([A-Z][a-z]+(?: [a-z…“”A-Z?,.-]+)+)"', source) if len(text) > 8]


async def test_a_page_in_another_language_has_no_english_words(new_device: NewDevice) -> None:
    page = await come_in_german(await new_device(locale="de-DE"), new_user())
    assert await page.evaluate("document.documentElement.lang") == "de-DE"
    shown = [await _all_words(page)]
    box = page.locator("#message")
    for text, mark in (
        ("[[demo: echo]] eins", "eins"),
        ("[[demo: fault=400]] zwei", "zwei"),
        ("add a task: drei", "drei"),
    ):
        await box.fill(text)
        await box.press("Enter")
        await expect(page.locator(".turn").last).to_contain_text(mark)
        await at_rest(page)
        shown.append(await _all_words(page))
    await page.locator(".row summary").first.click()
    shown.append(await _all_words(page))
    english = _english()
    assert len(english) > 40
    assert [text for text in english if any(text in words for words in shown)] == []


async def come_in_german(device: BrowserContext, user: str) -> Page:
    await device.request.post("/session/dev", data={"user_id": user})
    page = await device.new_page()
    await page.goto("/")
    await page.locator("#message").wait_for()
    return page


async def _all_words(page: Page) -> str:
    """All that is shown or read out, one line each."""
    words: str = await page.evaluate(
        """() => [document.body.innerText, ...[...document.querySelectorAll("*")].flatMap((each) =>
            ["aria-label", "title", "placeholder", "alt"].map((name) => each.getAttribute(name) ?? ""))].join("\\n")"""
    )
    return words
