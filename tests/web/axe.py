"""What axe-core finds in a page: mistakes that keep people out who hear it, or go by keyboard."""

from pathlib import Path
from typing import Any

from playwright.async_api import Page

from deploy.local.places import Places

_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_RUN = """async (rules) => {
    const { violations } = await axe.run(document, { runOnly: rules, resultTypes: ["violations"] });
    return violations.flatMap(({ id, help, nodes }) => nodes.map((node) =>
        `${id}: ${help}: ${node.html.slice(0, 200)}`));
}"""


def script() -> str:
    """To be run in each document before `violations`; the context has to bypass the policy of the page."""
    path: Path = Places.of().root / "web" / "node_modules" / "axe-core" / "axe.min.js"
    return path.read_text()


async def violations(page: Page) -> list[str]:
    """What is there to be found in the page as it is shown, one line each."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(script())
    found: Any = await page.evaluate(_RUN, _RULES)
    return list(found)
