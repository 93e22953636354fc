"""What people do at the page, and what they see of it."""

from uuid import uuid4

from playwright.async_api import BrowserContext, Locator, Page, expect

_IS_AT_REST = """() => document.querySelector('[data-status]')
    && !document.querySelector('[data-status=in_progress], [data-status=queued], [data-status=sending]')"""

_BE = """(state) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => state === "hidden" });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def new_user() -> str:
    """A user whom no other test has."""
    return f"ada-{uuid4().hex[:8]}"


async def come_in(context: BrowserContext, user: str, path: str = "/") -> Page:
    """A new tab at `path`, signed in by the door of a local installation, and ready to be written in."""
    if not await context.cookies():  # a second session would end the first one's word against forgery
        begun = await context.request.post("/session/dev", data={"user_id": user})
        assert begun.status == 201, await begun.text()
    page = await context.new_page()
    await page.goto(path)
    await box_of(page).wait_for()
    return page


async def sign_in(page: Page, user: str) -> None:
    """Come in by the door, as people do."""
    await page.goto("/")
    await page.get_by_label("Your name").fill(user)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await box_of(page).wait_for()


async def enter_token(page: Page, token: str) -> None:
    by_token = page.get_by_role("button", name="Use an access token instead")
    await by_token.click()
    await page.get_by_label("Access token", exact=True).fill(token)
    await page.get_by_role("button", name="Sign in", exact=True).click()


def box_of(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def answer_of(page: Page) -> Locator:
    """The last answer."""
    return page.get_by_role("article", name="Assistant").last


def said_in(page: Page) -> Locator:
    """The user's messages."""
    return page.get_by_role("article", name="You")


def rows_of(page: Page) -> Locator:
    """The conversations of the list."""
    return page.get_by_role("navigation", name="Conversations").get_by_role("listitem")


def region_of(page: Page) -> Locator:
    """What is read; it scrolls."""
    return page.get_by_role("region", name="Conversation")


async def say(page: Page, text: str) -> None:
    await box_of(page).fill(text)
    await box_of(page).press("Enter")


async def ask(page: Page, text: str) -> None:
    """Say it, and wait until it is answered."""
    count = await said_in(page).count()
    await say(page, text)
    await expect(said_in(page)).to_have_count(count + 1)
    await at_rest(page)


async def at_rest(page: Page) -> None:
    """Wait until nothing is on its way or being answered."""
    await page.wait_for_function(_IS_AT_REST)


async def choose(row: Locator, option: str) -> None:
    """Choose from the options of a conversation of the list."""
    await row.hover()
    await row.locator("summary").click()
    await row.get_by_role("button", name=option, exact=True).click()


async def put_behind(page: Page) -> None:
    """The browser of the tests shows every tab; this one believes that it is behind another."""
    await page.evaluate(_BE, "hidden")


async def bring_to_front(page: Page) -> None:
    """After `put_behind`."""
    await page.evaluate(_BE, "visible")


def words(count: int) -> str:
    """What the demo model counts for `[[demo: tokens=count]]`."""
    return " ".join(f"w{number}" for number in range(count))
