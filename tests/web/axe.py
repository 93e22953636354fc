"""What axe-core finds in a page: mistakes that keep people out who hear it, or go by keyboard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.async_api import Frame, Page

from deploy.local.places import Places

_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_OF_COLOURS = ["color-contrast", "link-in-text-block"]
_RUN = """async (runOnly) => {
    const { violations } = await axe.run(document, { runOnly, iframes: false, resultTypes: ["violations"] });
    return violations.flatMap(({ id, help, nodes }) => nodes.map((node) =>
        `${id}: ${help}: ${node.html.slice(0, 200)}`));
}"""


def script() -> str:
    """To be run in each document before `violations`; the context has to bypass the policy of the page."""
    path: Path = Places.of().root / "web" / "node_modules" / "axe-core" / "axe.min.js"
    return path.read_text()


async def violations(shown: Page | Frame) -> list[str]:
    """What is there to be found in what is shown, frames in it left out; one line each."""
    return await _run(shown, {"type": "tag", "values": _RULES})


async def violations_in_both_themes(page: Page) -> list[str]:
    """As `violations`, in the light theme; and in the dark one, where only what is about colours can differ."""
    await page.emulate_media(color_scheme="light")
    found = await violations(page)
    await page.emulate_media(color_scheme="dark")
    return found + [f"dark: {each}" for each in await _run(page, {"type": "rule", "values": _OF_COLOURS})]


async def _run(shown: Page | Frame, rules: Mapping[str, object]) -> list[str]:
    if not await shown.evaluate("'axe' in window"):
        await shown.evaluate(script())
    found: Any = await shown.evaluate(_RUN, rules)
    return list(found)
