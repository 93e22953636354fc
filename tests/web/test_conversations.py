"""The list, the branches, the tools: what people arrange, and what other tabs and devices see of it."""

import asyncio
import re

import asyncpg
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.support.backends import Backends
from tests.support.client import Client
from tests.support.stack import Stack
from tests.web.conftest import Complaints, NewDevice
from tests.web.steps import (
    answer_of,
    ask,
    at_rest,
    box_of,
    choose,
    come_in,
    new_user,
    region_of,
    rows_of,
    said_in,
    say,
)

_ALL_IN_SIGHT = """(menu) => [...menu.querySelectorAll("button, svg")].every((each) => {
    const { left, right, top, bottom } = each.getBoundingClientRect();
    return [[left + 1, top + 1], [right - 1, bottom - 1]].every(([x, y]) =>
        menu.contains(document.elementFromPoint(x, y)));
})"""


async def test_titles_are_there_at_once_get_better_and_stay_where_none_is_made(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await ask(page, "Plan the summer party with me")
    row = rows_of(page).first
    heading = page.get_by_role("heading", level=1)
    await expect(heading).to_have_text(await row.get_by_role("link").inner_text())
    await expect(heading).not_to_have_text("New conversation")

    await page.get_by_role("button", name="New conversation").click()
    # Slower than the worker gives a title.
    await ask(page, "[[demo: echo first_delay_ms=1200]] Untitled for ever")
    await expect(page.get_by_role("navigation").get_by_role("link").first).to_contain_text("Untitled for ever")


async def test_conversations_are_renamed_archived_deleted_and_brought_back_before_the_eyes_of_another_tab(
    device: BrowserContext, complaints: Complaints
) -> None:
    complaints.expect(404)
    user = new_user()
    page = await come_in(device, user)
    await expect(page.get_by_text("No conversations yet.")).to_be_visible()
    await expect(page.get_by_role("main").get_by_role("listitem")).to_have_count(4)
    await page.get_by_role("button", name="What can you do?").click()
    await expect(rows_of(page)).to_have_count(1)
    await at_rest(page)
    other = await come_in(device, user, f"/{await page.evaluate('location.hash')}")
    await expect(page.get_by_role("heading", name="Today")).to_be_visible()

    await choose(rows_of(page).first, "Rename")
    await page.get_by_label("New title").fill("My party")
    await page.keyboard.press("Enter")
    await expect(rows_of(other).first).to_contain_text("My party")
    await expect(other.get_by_role("heading", level=1)).to_have_text("My party")

    await page.get_by_label("Search", exact=True).fill("nowhere to be found")
    await expect(page.get_by_text("Nothing found for “nowhere to be found”.")).to_be_visible()
    await page.get_by_label("Search", exact=True).fill("")
    await expect(rows_of(page)).to_have_count(1)

    await choose(rows_of(page).first, "Archive")
    await expect(rows_of(other)).to_have_count(0)
    await page.get_by_role("navigation").get_by_role("button", name="Archive").click()
    await expect(rows_of(page)).to_have_count(1)
    await page.get_by_role("button", name="Undo").click()
    await page.get_by_role("navigation").get_by_role("button", name="Conversations").click()
    await expect(rows_of(page)).to_have_count(1)

    await choose(rows_of(page).first, "Delete")
    await expect(rows_of(page)).to_have_count(0)
    await expect(other.get_by_role("heading", name="This conversation is not here")).to_be_visible()
    await expect(other.get_by_role("button", name="Start a new conversation")).to_be_visible()
    await page.get_by_role("button", name="Undo").last.click()
    await expect(rows_of(other).first).to_contain_text("My party")
    await expect(answer_of(other)).to_be_visible()
    await expect(answer_of(page)).to_be_visible()


async def test_a_conversation_of_somebody_else_is_not_here_and_there_is_a_way_back(
    device: BrowserContext, stack: Stack, complaints: Complaints
) -> None:
    complaints.expect(404)
    client = Client(stack.gateway().url, new_user())
    theirs = (await client.http.post("/v1/conversations", json={})).json()["id"]
    await client.close()
    page = await device.new_page()
    await device.request.post("/session/dev", data={"user_id": new_user()})
    await page.goto(f"/#/{theirs}")
    await expect(page.get_by_role("heading", name="This conversation is not here")).to_be_visible()
    await page.get_by_role("button", name="Start a new conversation").click()
    await expect(box_of(page)).to_be_focused()


async def test_a_long_list_comes_in_pages_by_age_and_marks_what_runs_and_what_is_new(
    device: BrowserContext, stack: Stack, backends: Backends
) -> None:
    user = new_user()
    client = Client(stack.gateway().url, user)
    made = [await _begun(client, f"Talk {number}") for number in range(45)]
    owner = await asyncpg.connect(backends.database_urls["owner"])
    await owner.execute(
        """
        update conversations set updated_at = updated_at - interval '3 days'
        where user_id = $1 and id = any($2::uuid[])
        """,
        user,
        [conversation.removeprefix("conv_") for conversation in made[:40]],
    )
    await owner.close()
    page = await come_in(device, user)
    await expect(page.get_by_role("heading", name="Today")).to_be_visible()
    await expect(page.get_by_role("heading", name="Last 7 days")).to_be_visible()
    await expect(rows_of(page)).to_have_count(30)
    await rows_of(page).last.scroll_into_view_if_needed()
    await expect(rows_of(page)).to_have_count(45)
    for row in (rows_of(page).last, rows_of(page).first):
        await row.scroll_into_view_if_needed()
        await row.hover()
        await row.locator("summary").click()
        assert await row.locator(".menu").evaluate(_ALL_IN_SIGHT)
        await page.keyboard.press("Escape")

    running = await client.create("[[demo: tokens=300 delay_ms=10]] go", conversation=made[20], background=True)
    row = rows_of(page).filter(has_text="Talk 20")
    await expect(row.get_by_role("img", name="Being answered")).to_be_visible()
    await client.ended(running["id"])
    await expect(row.get_by_role("img", name="New answer")).to_be_visible()
    await row.get_by_role("link").click()
    await expect(answer_of(page)).to_contain_text("w299")
    await expect(row.get_by_role("img")).to_have_count(0)
    await client.close()


async def test_who_clicks_fast_sees_what_was_clicked_last(device: BrowserContext, stack: Stack) -> None:
    """One of several requests to one server is held back, which only the browser can do."""
    user = new_user()
    client = Client(stack.gateway().url, user)
    made = []
    for name in ("slow", "quick"):
        conversation = await _begun(client, name)
        items = [{"type": "message", "role": "assistant", "content": f"the {name} one"}]
        await client.http.post(f"/v1/conversations/{conversation}/items", json={"items": items})
        made.append(conversation)
    await client.close()
    slow, _ = made
    page = await come_in(device, user)
    release = asyncio.Event()
    held: list[Route] = []

    async def hold(route: Route) -> None:
        held.append(route)
        await release.wait()
        await route.continue_()

    await page.route(f"**/v1/conversations/{slow}/items*", hold)
    await rows_of(page).filter(has_text="slow").get_by_role("link").click()
    await expect(region_of(page).get_by_role("status", name="Loading…")).to_be_visible()
    await expect(rows_of(page)).to_have_count(2)
    await rows_of(page).filter(has_text="quick").get_by_role("link").click()
    await expect(answer_of(page)).to_have_text("the quick one")
    release.set()
    await page.unroute_all(behavior="wait")
    await ask(page, "[[demo: echo]] and on")
    await expect(page.get_by_text("the slow one")).to_have_count(0)
    await expect(page.get_by_role("article", name="Assistant").first).to_have_text("the quick one")


async def test_editing_and_asking_again_make_branches_whose_choice_stays(device: BrowserContext) -> None:
    user = new_user()
    page = await come_in(device, user)
    await ask(page, "[[demo: echo]] one")
    await ask(page, "[[demo: echo]] two")
    other = await come_in(device, user, f"/{await page.evaluate('location.hash')}")
    await said_in(page).first.hover()
    await said_in(page).first.get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("[[demo: echo]] uno")
    await page.get_by_label("Edit your message").press("Enter")
    await expect(answer_of(page)).to_contain_text("uno")
    await expect(box_of(page)).to_be_focused()
    second = page.get_by_role("img", name="Version 2 of 2")
    await expect(second).to_be_visible()
    await expect(said_in(page)).to_have_count(1)
    await expect(answer_of(other)).to_contain_text("uno")

    await at_rest(page)
    await page.get_by_role("button", name="Previous version").click()
    await expect(answer_of(page)).to_contain_text("two")
    await expect(said_in(page)).to_have_count(2)
    await expect(answer_of(other)).to_contain_text("two")
    await page.reload()
    await expect(page.get_by_role("img", name="Version 1 of 2")).to_be_visible()
    await expect(answer_of(page)).to_contain_text("two")

    await answer_of(page).get_by_role("button", name="Answer again").click()
    await expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    await at_rest(page)
    await expect(said_in(page)).to_have_count(2)


async def test_tools_are_shown_at_work_failed_and_asked_for_and_look_the_same_after_a_reload(
    device: BrowserContext, stack: Stack
) -> None:
    user = new_user()
    page = await come_in(device, user)
    await ask(page, '[[demo: call=complete_task args={"task_id": "none"}]] go')
    card = page.locator("details.tool").last
    await expect(card).to_contain_text("Complete task")
    await expect(card).to_contain_text("failed")
    await card.locator("summary").focus()
    await page.keyboard.press("Enter")
    await expect(card.get_by_text("Error", exact=True)).to_be_visible()

    client = Client(stack.gateway().url, user)
    conversation = (await page.evaluate("location.hash")).removeprefix("#/")
    tools = [{"type": "mcp", "server_label": "tasks", "require_approval": "always"}]
    for answer, told in (("Allow", "You allowed it."), ("Refuse", "You refused it.")):
        await client.create(f"add a task: {answer}", model="todo", conversation=conversation, tools=tools)
        approval = page.get_by_role("region", name="May I use “Add task”?").last
        await expect(approval).to_contain_text(answer)
        await approval.get_by_role("button", name=answer, exact=True).click()
        await expect(approval).to_contain_text(told)
        await at_rest(page)
    await client.close()
    tasks = page.get_by_role("complementary", name="Tasks")
    await expect(tasks.get_by_role("listitem")).to_have_count(1)

    before = await region_of(page).aria_snapshot()
    await page.reload()
    await expect(page.get_by_text("You refused it.")).to_be_visible()
    await page.locator("details.tool").first.locator("summary").click()
    assert await region_of(page).aria_snapshot() == before


async def test_a_card_tells_eyes_and_ears_how_long_its_tool_took_and_the_same_after_a_reload(
    new_device: NewDevice,
) -> None:
    user = new_user()
    page = await come_in(await new_device(), user)
    await ask(page, "add a task: buy milk")
    await ask(page, '[[demo: call=complete_task args={"task_id": "none"}]] go')
    as_it_came = await region_of(page).aria_snapshot()
    seen = await _durations(page)
    await page.reload()
    await expect(page.locator("details.tool")).to_have_count(2)
    await at_rest(page)

    assert await region_of(page).aria_snapshot() == as_it_came
    assert re.findall(r" (done|failed) \d+(?:\.\d)? (?:milli)?seconds?\b", as_it_came) == ["done", "failed"]
    assert all(re.fullmatch(r"\d+ ms|\d+(\.\d)? s", one) for one in seen), seen

    german = await (await new_device(locale="de-DE")).new_page()
    await german.context.request.post("/session/dev", data={"user_id": user})
    await german.goto(f"/{await page.evaluate('location.hash')}")
    await expect(german.locator("details.tool")).to_have_count(2)
    told = await german.locator("details.tool").first.aria_snapshot()
    assert re.search(r" erledigt \d+(,\d)? (Milli)?[Ss]ekunden?\b", told), told
    assert [one.replace(",", ".") for one in await _durations(german)] == seen


async def _durations(page: Page) -> list[str]:
    """As they are shown on the cards."""
    return await page.locator("details.tool .tool-took [aria-hidden]").all_text_contents()


async def test_the_task_list_follows_what_is_done_and_can_be_ticked(device: BrowserContext) -> None:
    page = await come_in(device, new_user())
    await ask(page, "add a task: buy milk")
    tasks = page.get_by_role("complementary", name="Tasks")
    await expect(tasks.get_by_text("1 open task")).to_be_visible()
    await tasks.get_by_role("checkbox").check()
    await expect(tasks.get_by_text("0 open tasks")).to_be_visible()
    await say(page, "What is on my list?")
    await at_rest(page)
    await page.reload()
    await expect(tasks.get_by_role("checkbox")).to_be_checked()


async def _begun(client: Client, title: str) -> str:
    """A new conversation without messages."""
    begun: str = (await client.http.post("/v1/conversations", json={})).json()["id"]
    renamed = await client.http.post(f"/v1/conversations/{begun}", json={"title": title})
    assert renamed.status_code == 200, renamed.text
    return begun
