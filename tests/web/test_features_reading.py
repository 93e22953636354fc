"""How the page reads: found again, in colours, in another language, in the chosen theme, from right to left."""

import re
from pathlib import Path

from playwright.async_api import BrowserContext, Page, expect

from deploy.local.places import Places
from tests.web import axe
from tests.web.conftest import NewDevice
from tests.web.steps import answer_of, ask, box_of, choose, come_in, new_user, rows_of, said_in

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SEEN = """() => {
    const seen = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (node.nodeType === Node.TEXT_NODE) seen.add(node.data.trim());
        else for (const name of ["aria-label", "title", "placeholder", "alt"]) seen.add(node.getAttribute(name) ?? "");
    }
    return [...seen].filter(Boolean);
}"""

_IS_WITHIN = """(element, frame) => {
    const [inner, outer] = [element, element.closest(frame)].map((each) => each.getBoundingClientRect());
    return inner.left >= outer.left - 1 && inner.right <= outer.right + 1
        && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
}"""
# Where the text itself is, within what it may fill.
_TEXT_BOX = """(element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return [range.getBoundingClientRect().right, element.parentElement.getBoundingClientRect().right];
}"""


def strings_of(language: str) -> set[str]:
    path: Path = Places.of().root / "web" / "src" / "i18n" / f"{language}.ts"
    return {text for text in _STRING.findall(path.read_text()) if len(text) > 1}


async def background_of(page: Page) -> str:
    return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))


async def test_a_search_leads_to_the_message_even_of_another_branch(new_device: NewDevice) -> None:
    page = await come_in(await new_device(bypass_csp=True), new_user())
    await ask(page, "[[demo: echo]] On a grey and rainy morning of a long November, the heron stands in the river")
    for number in range(3):
        await ask(page, f"[[demo: tokens=120]] again {number}")
    await said_in(page).first.hover()
    await said_in(page).first.get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("[[demo: echo]] Another beginning")
    await page.get_by_label("Edit your message").press("Enter")
    await expect(answer_of(page)).to_contain_text("Another beginning")
    await page.get_by_role("button", name="New conversation").click()

    await page.get_by_role("searchbox").fill("heron")
    hit = rows_of(page).get_by_role("link")
    await expect(hit.locator("mark")).to_have_text("heron")
    assert await hit.locator("mark").evaluate(_IS_WITHIN, ".row-snippet"), "the match is cut off"
    await hit.click()
    found = page.locator("[data-found]")
    await expect(found).to_contain_text("the heron stands in the river")
    await expect(found).to_be_focused()
    await expect(found).to_be_in_viewport()
    assert await axe.violations(page) == []
    # The address of a hit is one that can be kept.
    await page.reload()
    await expect(found).to_be_in_viewport()


async def test_code_gets_its_colours_from_a_file_that_comes_when_it_is_needed(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    scripts: list[str] = []
    page.on("request", lambda request: scripts.append(request.url) if "colours" in request.url else None)
    await ask(page, "[[demo: echo]] ```\nplain\n```")
    assert scripts == []
    await ask(page, "[[demo: echo]] ```python\ndef f() -> int:\n    return 1\n```\n\n```nonsense\nx\n```")
    await expect(answer_of(page).locator(".hljs-keyword").first).to_have_text("def")
    await expect(answer_of(page).locator("code").first).to_have_text("def f() -> int:\n    return 1")
    await expect(answer_of(page).locator("code").last).to_have_text("x")
    assert len(scripts) == 1


async def test_german_is_german_everywhere_and_is_kept(new_device: NewDevice) -> None:
    device = await new_device(bypass_csp=True)
    page = await come_in(device, new_user())
    await ask(page, "add a task: buy milk")
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Language").select_option("Deutsch")
    await expect(page.get_by_role("heading", name="Einstellungen")).to_be_visible()
    english = strings_of("en") - strings_of("de")
    seen = set(await page.evaluate(_SEEN))
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Einstellungen")).to_be_focused()
    await page.reload()
    await expect(page.get_by_label("Nachricht", exact=True)).to_be_visible()
    assert await page.evaluate("document.documentElement.lang") == "de"
    assert (seen | set(await page.evaluate(_SEEN))) & english == set()


async def test_a_chosen_theme_is_there_from_the_first_paint(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await page.emulate_media(color_scheme="light")
    light = await background_of(page)
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("radio", name="Dark").check()
    dark = await background_of(page)
    assert dark != light
    await page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { window.early = document.documentElement.dataset.theme; });"
        "new MutationObserver(() => { window.atBody ??= document.documentElement.dataset.theme ?? 'none'; })"
        ".observe(document, { childList: true, subtree: true });"
    )
    await page.reload()
    await box_of(page).wait_for()
    assert await page.evaluate("window.early") == "dark"
    assert await background_of(page) == dark
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("radio", name="System").check()
    assert await background_of(page) == light


async def test_usage_of_the_day_is_told_in_the_settings(new_device: NewDevice) -> None:
    page = await come_in(await new_device(bypass_csp=True), new_user())
    await ask(page, "hello")
    await page.get_by_role("button", name="Settings").click()
    usage = page.get_by_role("region", name="Usage today")
    await expect(usage).to_contain_text("1 answer")
    await expect(usage).to_contain_text(re.compile(r"\d+ tokens"))
    assert await axe.violations(page) == []


async def test_from_right_to_left_the_page_is_a_mirror_of_itself(new_device: NewDevice) -> None:
    page = await come_in(await new_device(viewport={"width": 1280, "height": 800}), new_user())
    await ask(page, "שלום, מה שלומך?")
    await page.evaluate("document.documentElement.dir = 'rtl'")
    centre = 640
    boxes = {
        "list": page.get_by_role("navigation", name="Conversations"),
        "tasks": page.get_by_role("complementary", name="Tasks"),
        "bubble": page.locator(".bubble"),
        "send": page.get_by_role("button", name="Send", exact=True),
    }
    middles = {}
    for name, locator in boxes.items():
        box = await locator.bounding_box()
        assert box is not None
        middles[name] = box["x"] + box["width"] / 2
    assert middles["list"] > centre > middles["tasks"]
    assert middles["bubble"] < centre
    assert middles["send"] < centre
    assert await page.locator(".bubble").evaluate("bubble => getComputedStyle(bubble).direction") == "rtl"
    # A title of another direction begins at the page's side, too.
    await choose(rows_of(page).first, "Rename")
    await page.get_by_label("New title").fill("In English")
    await page.keyboard.press("Enter")
    for title in (page.get_by_role("heading", level=1), rows_of(page).locator(".row-title")):
        await expect(title).to_have_text("In English")
        text_right, right = await title.evaluate(_TEXT_BOX)
        assert right - text_right < 80
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_list_and_the_tasks_are_read_once_when_the_page_opens(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await ask(page, "hello")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.reload()
    await box_of(page).wait_for()
    await expect(rows_of(page)).to_have_count(1)
    await expect(page.get_by_role("complementary", name="Tasks")).to_contain_text("Nothing to do.")
    lists = [url for url in asked if "/v1/conversations?" in url]
    tasks = [url for url in asked if "/tasks?" in url]
    assert (len(lists), len(tasks)) == (1, 1)
