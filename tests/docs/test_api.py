"""The API guide does what it says: its examples run, in all three languages, and print what it shows."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from tests.clients.environments import node
from tests.docs.examples import Example, ProgramFailedError, examples_of, is_shown, kinds_of_blocks, output_of
from tests.support.backends import Backends, new_backends
from tests.support.stack import Stack, running_stack, token_of

_ROOT = Path(__file__).parents[2]
_GUIDE = _ROOT / "docs" / "api.md"
_PAGES = [_GUIDE, *sorted((_ROOT / "docs" / "api").glob("*.md"))]
_SECONDS_MAX = 60.0  # of one page in one language
_AT_ONCE = 3  # programs; they wait for the system more than they compute
_SEPARATOR = "\x1e"  # printed behind each example
_DECLARATION = re.compile(r"^(?:const|let) ", re.MULTILINE)
_ENDPOINT = re.compile(r"`(GET|POST|PUT|PATCH|DELETE)((?:, (?:GET|POST|PUT|PATCH|DELETE))*) (/[^`?\s]*)[^`]*`")
_CODE_ROW = re.compile(r"^\| `(\w+)`(?:, `\w+`)* \|", re.MULTILINE)
_RAISED = re.compile(r'(?:Error|_unavailable|_refused)\(\s*"([a-z_]+)"')
_NOT_TOLD = {"broker_unavailable"}  # between services only


@dataclass(frozen=True)
class Language:
    """How the examples of a page become one program: the file's name, what is behind each example, what runs it."""

    filename: str
    separate: str
    command: Callable[[Path], Sequence[str | Path]]
    before: str = ""


def _node_command(script: Path) -> Sequence[str | Path]:
    """Node.js finds packages beside the script."""
    found = node()
    (script.parent / "node_modules").symlink_to(found.folder / "node_modules")
    return [found.program, script]


_LANGUAGES: Mapping[str, Language] = {
    "sh": Language("page.sh", r"printf '\036'", lambda script: ["bash", script], before="set -eu\n"),
    "python": Language("page.py", r'print("\x1e", end="", flush=True)', lambda script: [sys.executable, script]),
    "js": Language("page.mjs", r'process.stdout.write("\x1e");', _node_command),
}


@pytest.fixture(scope="module")
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture(scope="module")
async def stack(own_backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    variables = {"MODEL_INPUTS": "text,image,file", "GATEWAY_CANCEL_WAIT_SECONDS": "30"}
    async with running_stack(own_backends, tmp_path_factory.mktemp("stack"), variables=variables) as running:
        yield running


@pytest.fixture(scope="module")
async def mistakes(
    stack: Stack, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[[Path, str], "asyncio.Task[list[str]]"]]:
    """Gives what is wrong with a page in a language. All that are to be tested run at once, some at a time."""
    places = asyncio.Semaphore(_AT_ONCE)
    tasks: dict[tuple[Path, str], asyncio.Task[list[str]]] = {}

    async def look(page: Path, language: str) -> list[str]:
        async with places:
            folder = tmp_path_factory.mktemp(f"{page.stem}-{language}")
            return await _mistakes_of(page, language, stack.gateway().url, folder)

    for item in request.session.items:
        wanted = item.callspec.params if hasattr(item, "callspec") else {}
        if wanted.keys() == {"page", "language"}:
            tasks[wanted["page"], wanted["language"]] = asyncio.create_task(look(**wanted))
    yield lambda page, language: tasks[page, language]
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("language", _LANGUAGES)
@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
async def test_the_examples_of_a_page_print_what_it_shows(
    page: Path, language: str, mistakes: Callable[[Path, str], "asyncio.Task[list[str]]"]
) -> None:
    if found := await mistakes(page, language):
        pytest.fail("\n\n".join(found), pytrace=False)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_a_page_has_no_example_that_does_not_run(page: Path) -> None:
    assert set(kinds_of_blocks(page.read_text())) <= {*_LANGUAGES, "text", "nginx"}


def test_the_guide_lists_every_endpoint() -> None:
    settings = GatewaySettings.model_validate({"database_url": "unused", "JWT_SECRET": "s" * 32})
    paths = create_app(settings).openapi()["paths"]
    served = {(method.upper(), _unnamed(path)) for path, methods in paths.items() for method in methods}

    assert _listed(_GUIDE.read_text()) == served


def test_the_guide_lists_every_code_of_an_error() -> None:
    sources = [*(_ROOT / "gateway" / "src").rglob("*.py"), *(_ROOT / "shared" / "src").rglob("*.py")]
    raised = {code for source in sources for code in _RAISED.findall(source.read_text())}
    listed = {code for row in _CODE_ROW.finditer(_GUIDE.read_text()) for code in re.findall(r"`([a-z_]+)`", row[0])}

    assert raised - listed == _NOT_TOLD


def test_an_example_that_prints_something_else_is_noticed() -> None:
    [one, two, three] = examples_of(
        "```sh\nthis\n```\n\n```text\n1 … 3\n```\n\n```python\nthat\n```\n\nAnd:\n\n```js\nit\n```\n```text\nx\n```\n",
        list(_LANGUAGES),
    )

    assert (one.shown, two.shown, three.shown) == ("1 … 3\n", None, "x\n")
    assert is_shown("1 … 3\n", "1 2\n2 3")
    assert not is_shown("1 … 3\n", "1 2 3 4")


async def _mistakes_of(page: Path, name: str, url: str, folder: Path) -> list[str]:
    """What the examples of a page do that the page does not say, for a user of their own; nothing if all is well."""
    examples = _examples(page, name)
    script = folder / _LANGUAGES[name].filename
    script.write_text(_program_of(examples, _LANGUAGES[name]))
    command = await asyncio.to_thread(_LANGUAGES[name].command, script)
    user_id = f"{page.stem}-{name}"
    variables = {
        "BASE_URL": url,
        "TOKEN": token_of(user_id),
        "USER_ID": user_id,
        "ADMIN_TOKEN": token_of(f"operator-{user_id}", roles=["admin"]),
    }
    try:
        output = await output_of(command, folder, variables, seconds_max=_SECONDS_MAX)
    except ProgramFailedError as error:
        *ended, last = str(error).split(_SEPARATOR)
        return [f"{_place(page, examples[len(ended)])} failed:\n{last}"]
    return list(_differences(page, examples, output.split(_SEPARATOR)))


def _examples(page: Path, name: str) -> list[Example]:
    """The examples of a page in a language, behind what the guide has its readers do first."""
    own = [one for one in examples_of(page.read_text(), list(_LANGUAGES)) if one.language == name]
    return own if page == _GUIDE else [_examples(_GUIDE, name)[0], *own]


def _program_of(examples: Iterable[Example], language: Language) -> str:
    """One program. What an example declares may be declared again by the next: a reader has run one of them."""
    parts = [f"{one.code}\n{language.separate}\n" for one in examples]
    program = language.before + "".join(parts)
    return _DECLARATION.sub("var ", program) if language.filename.endswith(".mjs") else program


def _differences(page: Path, examples: Sequence[Example], printed: Sequence[str]) -> Iterator[str]:
    for example, output in zip(examples, printed, strict=False):
        if example.shown is not None and not is_shown(example.shown, output):
            yield f"{_place(page, example)} shows:\n{example.shown}\nbut prints:\n{output}"


def _place(page: Path, example: Example) -> str:
    return f"{page.relative_to(_ROOT)}:{example.line}"


def _listed(text: str) -> set[tuple[str, str]]:
    """The endpoints that a text names as `GET, DELETE /path/{name}`."""
    found = ((match[1] + match[2], match[3]) for match in _ENDPOINT.finditer(text))
    return {(method, _unnamed(path)) for methods, path in found for method in methods.split(", ")}


def _unnamed(path: str) -> str:
    """A path whose parameters have no names."""
    return re.sub(r"\{\w+\}", "{}", path)
