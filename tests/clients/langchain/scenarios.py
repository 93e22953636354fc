"""LangChain's model class for OpenAI, over responses (`use_responses_api`) and over chat completions."""

# Its libraries are in an environment of their own, where mypy does not look.
# mypy: disable-error-code="import-not-found,untyped-decorator"

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.clients.harness import (
    ADD_MILK,
    BASE_URL,
    FAILING,
    RED_PIXEL,
    SHOW_LIST,
    THINKING,
    TOKEN,
    WEATHER,
    WEATHER_RESULT,
    holds,
    raised,
    run,
    same,
    scenario,
)


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    same(city, "Oslo")
    return WEATHER_RESULT


def model_of(name: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=BASE_URL, api_key=SecretStr(TOKEN), **{"use_responses_api": True, **fields})


@scenario
async def answers_a_message() -> None:
    answer = await model_of("chat").ainvoke([SystemMessage("Be brief."), HumanMessage("[[demo: echo]] a word")])

    holds("a word", answer.text)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0
    assert answer.response_metadata["id"].startswith("resp_")


@scenario
async def streams_text() -> None:
    chunks = [chunk async for chunk in model_of("chat").astream("[[demo: tokens=30]] go")]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk

    same(len(whole.text.split()), 30)
    assert len(chunks) > 3
    assert whole.usage_metadata is not None


@scenario
async def has_tools_run_by_the_server() -> None:
    model = model_of("todo", use_previous_response_id=True)
    question = HumanMessage(ADD_MILK)
    added = await model.ainvoke([question])
    listed = await model.ainvoke([question, added, HumanMessage(SHOW_LIST)])

    blocks: list[Any] = list(added.content)
    same([block["type"] for block in blocks], ["mcp_call", "text"])
    holds("buy milk", listed.text)


@scenario
async def sends_back_a_tool_call_of_the_server() -> None:
    model = model_of("todo")
    question = HumanMessage(ADD_MILK)
    added = await model.ainvoke([question])

    counted = await model.ainvoke([question, added, HumanMessage("how many messages have I sent?")])

    holds("2", counted.text)


@scenario
async def sends_its_reasoning_back() -> None:
    model = model_of("chat", reasoning={"effort": "low", "summary": "auto"})
    question = HumanMessage(THINKING)
    first = await model.ainvoke([question])
    blocks: list[Any] = list(first.content)
    same([block["type"] for block in blocks], ["reasoning", "text"])

    counted = await model.ainvoke([question, first, HumanMessage("how many messages have I sent?")])

    holds("2", counted.text)


async def run_function(model: ChatOpenAI, **fields: Any) -> AIMessage:
    """The answer that comes after the function's result."""
    bound = model.bind_tools([get_weather], **fields)
    question = HumanMessage(WEATHER)
    asked = await bound.ainvoke([question])
    [call] = asked.tool_calls
    same((call["name"], call["args"]), ("get_weather", {"city": "Oslo"}))
    result: ToolMessage = await get_weather.ainvoke(call)
    return await bound.ainvoke([question, asked, result])


@scenario
async def runs_a_function_for_the_model() -> None:
    holds(WEATHER_RESULT, (await run_function(model_of("chat"))).text)


@scenario
async def runs_a_function_in_a_chain_of_responses() -> None:
    holds(WEATHER_RESULT, (await run_function(model_of("chat", use_previous_response_id=True), strict=True)).text)


@scenario
async def streams_a_function_call() -> None:
    chunks = [chunk async for chunk in model_of("chat").bind_tools([get_weather]).astream(WEATHER)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk

    [call] = whole.tool_calls
    same((call["name"], call["args"]), ("get_weather", {"city": "Oslo"}))


@scenario
async def answers_in_a_schema() -> None:
    answer = await model_of("chat").with_structured_output(Weather, method="json_schema").ainvoke("Oslo?")

    assert isinstance(answer, Weather), answer


@scenario
async def answers_by_calling_a_function() -> None:
    asked = '[[demo: call=Weather args={"city":"Oslo","degrees":14}]] the weather in Oslo?'
    answer = await model_of("chat").with_structured_output(Weather, method="function_calling").ainvoke(asked)

    same(answer, Weather(city="Oslo", degrees=14))


@scenario
async def looks_at_an_image() -> None:
    parts: Any = [
        {"type": "text", "text": "what is in this image?"},
        {"type": "image_url", "image_url": {"url": RED_PIXEL}},
    ]
    answer = await model_of("chat").ainvoke([HumanMessage(parts)])

    assert answer.text


@scenario
async def hears_of_a_failure() -> None:
    error = await raised(ValueError, model_of("chat").ainvoke(FAILING))

    holds("The model refuses this request.", str(error))


@scenario
async def completes_a_chat() -> None:
    model = model_of("chat", use_responses_api=False)
    streamed = "".join([chunk.text async for chunk in model.astream("[[demo: echo]] as in former times")])

    holds("as in former times", streamed)
    holds(WEATHER_RESULT, (await run_function(model)).text)


if __name__ == "__main__":
    run()
