"""The first story: sign in, say something, see it done, and find it all again."""

from playwright.async_api import Page, expect

from tests.support.stack import Stack, token_of
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import answer_of, ask, box_of, enter_token, new_user, said_in, sign_in


async def test_a_message_is_answered_by_a_tool_and_is_there_after_a_reload(page: Page, complaints: Complaints) -> None:
    complaints.expect(401)  # the page asks who one is before one has signed in
    await sign_in(page, "ada")
    await expect(page.get_by_role("heading", name="What can I do for you, ada?")).to_be_visible()
    box = page.get_by_label("Message", exact=True)
    await box.fill("add a task: buy milk")
    await box.press("Enter")

    answer = page.get_by_role("article", name="Assistant")
    await expect(answer).to_contain_text("I added “buy milk”.")
    await expect(box).to_be_focused()
    card = answer.locator("details.tool")
    await expect(card).to_contain_text("Add task")
    await expect(card).to_contain_text("done")
    await expect(page.get_by_role("complementary", name="Tasks")).to_contain_text("buy milk")
    await expect(page.get_by_role("navigation", name="Conversations").get_by_role("link")).to_have_count(1)

    before = await page.get_by_role("region", name="Conversation").aria_snapshot()
    await page.reload()
    await expect(answer).to_contain_text("I added “buy milk”.")
    assert await page.get_by_role("region", name="Conversation").aria_snapshot() == before


async def test_it_works_over_plain_http_where_browsers_withhold_what_is_for_secure_origins(
    new_device: NewDevice, stack: Stack, complaints: Complaints
) -> None:
    complaints.expect(401, 403)
    complaints.expect_plain_http()
    origin = stack.gateway().url.replace("127.0.0.1", "parley.test")
    page = await (await new_device(origin)).new_page()
    user = new_user()
    await page.goto("/")
    await page.get_by_label("Your name").fill(user)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("Use an access token.")
    await enter_token(page, token_of(user))
    await box_of(page).wait_for()
    assert await page.evaluate("[isSecureContext, typeof crypto.randomUUID, typeof navigator.clipboard]") == [
        False,
        "undefined",
        "undefined",
    ]
    # The name that a machine gave its user is no name to be called by.
    await expect(page.get_by_role("heading", name="What can I do for you?", exact=True)).to_be_visible()
    await ask(page, "[[demo: echo]] one")
    await expect(answer_of(page)).to_contain_text("one")
    await answer_of(page).get_by_role("button", name="Copy", exact=True).click()
    await expect(answer_of(page).get_by_role("button", name="Copied")).to_be_focused()
    await box_of(page).press("ControlOrMeta+v")
    await expect(box_of(page)).to_have_value("one")
    await expect(said_in(page)).to_have_count(1)
