"""Pydantic AI with its model for responses."""

# Its libraries are in an environment of their own, where mypy does not look.
# mypy: disable-error-code="import-not-found,untyped-decorator"

from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

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

provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url=BASE_URL, api_key=TOKEN))


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    same(city, "Oslo")
    return WEATHER_RESULT


def agent_of(name: str, **fields: Any) -> Agent[None, Any]:
    return Agent(OpenAIResponsesModel(name, provider=provider), **fields)


def part_kinds(message: Any) -> list[str]:
    return [part.part_kind for part in message.parts]


@scenario
async def answers_a_message() -> None:
    agent = agent_of("chat", instructions="Be brief.", system_prompt="Speak plainly.")
    result = await agent.run("[[demo: echo]] a word")

    holds("a word", result.output)
    assert result.usage.total_tokens > 0


@scenario
async def streams_text() -> None:
    async with agent_of("chat").run_stream("[[demo: tokens=30]] go") as result:
        deltas = [delta async for delta in result.stream_text(delta=True, debounce_by=None)]

    same("".join(deltas), " ".join(f"w{number}" for number in range(30)))
    assert len(deltas) > 1


@scenario
async def has_tools_run_by_the_server() -> None:
    agent = agent_of("todo", model_settings=OpenAIResponsesModelSettings(openai_previous_response_id="auto"))
    added = await agent.run(ADD_MILK)
    listed = await agent.run(SHOW_LIST, message_history=added.all_messages())

    same(part_kinds(added.all_messages()[-1]), ["builtin-tool-call", "builtin-tool-return", "text"])
    holds("buy milk", listed.output)


@scenario
async def sends_back_a_tool_call_of_the_server() -> None:
    agent = agent_of("todo")
    added = await agent.run(ADD_MILK)

    counted = await agent.run("how many messages have I sent?", message_history=added.all_messages())

    holds("2", counted.output)


@scenario
async def sends_its_reasoning_back() -> None:
    agent = agent_of("chat", model_settings=OpenAIResponsesModelSettings(openai_reasoning_summary="auto"))
    first = await agent.run(THINKING)
    same(part_kinds(first.all_messages()[-1]), ["thinking", "text"])

    counted = await agent.run("how many messages have I sent?", message_history=first.all_messages())

    holds("2", counted.output)


@scenario
async def runs_a_function_for_the_model() -> None:
    result = await agent_of("chat", tools=[get_weather]).run(WEATHER)

    kinds = [part_kinds(message) for message in result.all_messages()]
    same(kinds, [["user-prompt"], ["tool-call"], ["tool-return"], ["text"]])
    holds(WEATHER_RESULT, result.output)


@scenario
async def runs_a_function_while_it_streams() -> None:
    async with agent_of("chat", tools=[get_weather]).run_stream(WEATHER) as result:
        holds(WEATHER_RESULT, await result.get_output())


@scenario
async def runs_a_function_in_a_chain_of_responses() -> None:
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")

    result = await agent_of("chat", tools=[get_weather], model_settings=settings).run(WEATHER)

    holds(WEATHER_RESULT, result.output)


@scenario
async def runs_a_function_in_a_conversation() -> None:
    conversation = await provider.client.conversations.create()
    settings = OpenAIResponsesModelSettings(openai_conversation_id=conversation.id)

    result = await agent_of("chat", tools=[get_weather], model_settings=settings).run(WEATHER)

    holds(WEATHER_RESULT, result.output)


@scenario
async def polls_a_background_response() -> None:
    settings = OpenAIResponsesModelSettings(openai_background=True)

    result = await agent_of("chat", model_settings=settings).run("[[demo: tokens=20]] go")

    same(len(result.output.split()), 20)


@scenario
async def answers_in_a_schema() -> None:
    result = await agent_of("chat", output_type=NativeOutput(Weather)).run("the weather in Oslo?")

    assert isinstance(result.output, Weather), result.output


@scenario
async def answers_by_calling_a_function() -> None:
    asked = '[[demo: call=final_result args={"city":"Oslo","degrees":14}]] the weather in Oslo?'

    result = await agent_of("chat", output_type=Weather).run(asked)

    same(result.output, Weather(city="Oslo", degrees=14))


@scenario
async def looks_at_an_image() -> None:
    result = await agent_of("chat").run(["what is in this image?", BinaryContent.from_data_uri(RED_PIXEL)])

    assert result.output


@scenario
async def hears_of_a_failure() -> None:
    error = await raised(ModelAPIError, agent_of("chat").run(FAILING))

    holds("The model refuses this request.", str(error))


@scenario
async def completes_a_chat() -> None:
    agent = Agent(OpenAIChatModel("chat", provider=provider), tools=[get_weather])

    result = await agent.run(WEATHER)

    holds(WEATHER_RESULT, result.output)


if __name__ == "__main__":
    run()
