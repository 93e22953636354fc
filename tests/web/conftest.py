"""The page in a real browser, on a real system. A page that complains, or asks anybody else, fails its test."""

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright, expect

from deploy.local import web
from deploy.local.places import Places
from deploy.local.ports import free_ports
from deploy.local.terminal import Failure
from tests.support.backends import Backends, new_backends
from tests.support.stack import Stack, running_stack
from tests.support.tcp import Line, proxied
from tests.web.browser import chromium

WAIT_MS = 60_000.0  # for machines that have much else to do
_STRICT = "gateway-1"

NewDevice = Callable[..., Awaitable[BrowserContext]]


@pytest.fixture(scope="package")
def backends() -> Iterator[Backends]:
    with new_backends() as own:
        yield own


@pytest.fixture(scope="package")
def built_page() -> Path:
    """The folder of the page, built from what is in the checkout."""
    try:
        return web.build(Places.of())
    except Failure as failure:
        pytest.skip(f"the page cannot be built: {failure}")


@pytest.fixture(scope="package")
async def database_line(backends: Backends) -> AsyncIterator[tuple[str, Line]]:
    """The way of the strict gateway to its database, and the switch in it."""
    async with proxied(backends.database_urls["parley_gateway"]) as line:
        yield line


@pytest.fixture(scope="package")
def host_origin() -> str:
    """Of the one site that may show the widget; for a browser `localhost` is another site than 127.0.0.1."""
    return f"http://localhost:{free_ports(1)[0]}"


@pytest.fixture(scope="package")
async def stack(
    backends: Backends,
    built_page: Path,
    database_line: tuple[str, Line],
    host_origin: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stack]:
    """A system with two gateways. `gateway-1` is strict, allowing a user one open answer, and can lose its database."""
    variables = {
        "GATEWAY_WEB_ROOT": str(built_page),
        "MODEL_INPUTS": "text,image,file",
        "GATEWAY_FRAME_ANCESTORS": json.dumps([host_origin]),
        "GATEWAY_LOGINS_PER_MINUTE_MAX": "100000",  # all tests come from one address
        "GATEWAY_ANONYMOUS_REQUESTS_BURST_MAX": "100000",
        "GATEWAY_HEARTBEAT_SECONDS": "0.5",
        "JWT_LEEWAY_SECONDS": "0",
        "CHAT_WORKER_LEASE_SECONDS": "3",
        "CHAT_WORKER_TITLES_ENABLED": "true",
        "CHAT_WORKER_TITLE_SECONDS_MAX": "1",
        "PERSISTENCE_MAINTENANCE_SECONDS": "0.3",
        "PERSISTENCE_LEASE_GRACE_SECONDS": "0.5",
    }
    strict = {"GATEWAY_OPEN_JOBS_PER_USER_MAX": "1", "GATEWAY_DATABASE_URL": database_line[0]}
    folder: Path = tmp_path_factory.mktemp("stack")
    counts = {"gateway": 2}
    async with running_stack(
        backends, folder, counts=counts, variables=variables, variables_of={_STRICT: strict}
    ) as running:
        yield running


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    try:
        program, variables = chromium()
    except Failure as failure:
        pytest.skip(str(failure))
    # Of a name that is not the machine's own, plain HTTP is no secure context: as on a network without certificates.
    arguments = ["--host-resolver-rules=MAP *.test 127.0.0.1", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=program, args=arguments, env={**os.environ, **variables}
        )
        yield launched
        await launched.close()


@dataclass
class Complaints:
    """What a page should not do: log errors, throw, break its policy, ask another origin.

    The browser itself writes a line for every status of 4xx and 5xx and for every lost connection, also where the page
    takes it as an answer: a test names those that it brings about.
    """

    found: list[str] = field(default_factory=list)
    _expected: list[re.Pattern[str]] = field(default_factory=list)

    def expect(self, *statuses: int) -> None:
        """Answers of these statuses are part of the story."""
        for status in statuses:
            self._expected.append(re.compile(rf"Failed to load resource: .*status of {status}\b"))

    def expect_plain_http(self) -> None:
        """The page is of no secure origin, for which browsers ignore some headers and say so."""
        self._expected.append(re.compile(r"The Cross-Origin-Opener-Policy header has been ignored"))

    def expect_losses(self) -> None:
        """Lost connections are part of the story."""
        self._expected.append(re.compile(r"Failed to load resource: net::ERR_"))

    def listen(self, page: Page, *origins: str) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"thrown: {error}"))
        page.on("request", lambda request: self._request(request, origins))

    def _console(self, message: ConsoleMessage) -> None:
        is_expected = any(pattern.match(message.text) for pattern in self._expected)
        if message.type in {"error", "warning"} and not is_expected:
            self.found.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request, origins: tuple[str, ...]) -> None:
        if not request.url.startswith((*(f"{origin}/" for origin in origins), "data:", "blob:")):
            self.found.append(f"asked elsewhere: {request.url}")


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """What the tabs of this test complain of, which fails it."""
    complaints = Complaints()
    yield complaints
    assert not complaints.found, "\n".join(complaints.found)


@pytest.fixture
async def new_device(browser: Browser, stack: Stack, complaints: Complaints) -> AsyncIterator[NewDevice]:
    """Makes browsers that share nothing, at `origin` (the first gateway), with options of Playwright's contexts."""
    contexts: list[BrowserContext] = []

    async def make(origin: str | None = None, **options: object) -> BrowserContext:
        base_url = origin or stack.gateway().url
        context = await browser.new_context(base_url=base_url, **{"locale": "en-GB", **options})  # type: ignore[arg-type]
        context.set_default_timeout(WAIT_MS)
        context.on("page", lambda page: complaints.listen(page, base_url))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        await context.close()


@pytest.fixture
async def device(new_device: NewDevice) -> BrowserContext:
    return await new_device()


@pytest.fixture
async def page(device: BrowserContext) -> Page:
    """A tab of a new browser, at no address yet."""
    return await device.new_page()


@pytest.fixture(scope="package")
async def session_line(stack: Stack) -> AsyncIterator[tuple[str, Line]]:
    """Outlives every tab, which would complain of a line that goes before it."""
    async with proxied(stack.gateway().url) as made:
        yield made


@pytest.fixture
def line(session_line: tuple[str, Line]) -> tuple[str, Line]:
    """The first gateway's address as seen through a line that can be cut and frozen, and that line."""
    session_line[1].mend()
    return session_line
