"""The first story: sign in, say something, see it done, and find it all again."""

from playwright.async_api import Page, expect

from tests.web.conftest import Complaints
from tests.web.steps import sign_in


async def test_a_message_is_answered_by_a_tool_and_is_there_after_a_reload(page: Page, complaints: Complaints) -> None:
    complaints.expect(401)  # the page asks who one is before one has signed in
    await sign_in(page, "ada")
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
