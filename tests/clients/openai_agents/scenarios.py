"""OpenAI's Agents SDK: its loop runs the local functions, our worker the tools of the server."""

# Its libraries are in an environment of their own, where mypy does not look.
# mypy: disable-error-code="import-not-found,untyped-decorator"

from typing import Any, Literal

from agents import (
    Agent,
    HostedMCPTool,
    ModelBehaviorError,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI, NotFoundError
from pydantic import BaseModel

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

set_tracing_disabled(disabled=True)
client = AsyncOpenAI(base_url=BASE_URL, api_key=TOKEN)


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    same(city, "Oslo")
    return WEATHER_RESULT


def agent_of(model: Literal["chat", "todo"], **fields: Any) -> Agent[None]:
    return Agent(name="Helper", model=OpenAIResponsesModel(model, client), **fields)


def types_of(items: list[Any]) -> list[str]:
    return [item.type for item in items]


@scenario
async def answers_a_message() -> None:
    result = await Runner.run(agent_of("chat", instructions="Be brief."), "[[demo: echo]] a word")

    holds("a word", result.final_output)
    assert result.context_wrapper.usage.total_tokens > 0


@scenario
async def streams_text() -> None:
    result = Runner.run_streamed(agent_of("chat"), "[[demo: tokens=30]] go")
    said = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]

    same("".join(said), result.final_output)
    assert len(said) > 1


@scenario
async def has_tools_run_by_the_server() -> None:
    result = await Runner.run(agent_of("todo"), ADD_MILK)

    same(types_of(result.new_items), ["tool_call_item", "message_output_item"])
    same(result.new_items[0].raw_item.type, "mcp_call")
    listed = await Runner.run(agent_of("todo"), SHOW_LIST, previous_response_id=result.last_response_id)
    holds("buy milk", listed.final_output)


@scenario
async def runs_a_function_for_the_model() -> None:
    result = await Runner.run(agent_of("chat", tools=[get_weather]), WEATHER)

    same(types_of(result.new_items), ["tool_call_item", "tool_call_output_item", "message_output_item"])
    holds(WEATHER_RESULT, result.final_output)


@scenario
async def runs_a_function_in_a_chain_of_responses() -> None:
    result = await Runner.run(agent_of("chat", tools=[get_weather]), WEATHER, auto_previous_response_id=True)

    holds(WEATHER_RESULT, result.final_output)
    same(len({response.response_id for response in result.raw_responses}), 2)


@scenario
async def runs_a_function_in_a_conversation() -> None:
    conversation = await client.conversations.create()

    result = await Runner.run(agent_of("chat", tools=[get_weather]), WEATHER, conversation_id=conversation.id)

    holds(WEATHER_RESULT, result.final_output)
    kept = [item.type async for item in client.conversations.items.list(conversation.id, order="asc")]
    same(kept, ["message", "function_call", "function_call_output", "message"])


@scenario
async def runs_a_function_while_it_streams() -> None:
    result = Runner.run_streamed(agent_of("chat", tools=[get_weather]), WEATHER)
    names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]

    same(names, ["tool_called", "tool_output", "message_output_created"])
    holds(WEATHER_RESULT, result.final_output)


@scenario
async def sends_back_a_tool_call_of_the_server() -> None:
    first = await Runner.run(agent_of("todo"), ADD_MILK)
    question: Any = {"role": "user", "content": "how many messages have I sent?"}

    second = await Runner.run(agent_of("chat"), [*first.to_input_list(), question])

    holds("2", second.final_output)


@scenario
async def sends_its_reasoning_back() -> None:
    first = await Runner.run(agent_of("chat"), THINKING)
    same(types_of(first.new_items), ["reasoning_item", "message_output_item"])
    question: Any = {"role": "user", "content": "how many messages have I sent?"}

    second = await Runner.run(agent_of("chat"), [*first.to_input_list(), question])

    holds("2", second.final_output)


@scenario
async def keeps_a_session() -> None:
    session = OpenAIConversationsSession(openai_client=client)
    await Runner.run(agent_of("chat"), "[[demo: echo]] the code word is apricot", session=session)

    second = await Runner.run(agent_of("chat"), "how many messages have I sent?", session=session)

    holds("2", second.final_output)
    roles = [item["role"] for item in await session.get_items()]
    same(roles, ["user", "assistant", "user", "assistant"])
    popped = await session.pop_item()
    assert popped is not None
    same(len(await session.get_items()), 3)
    conversation_id = session.session_id
    await session.clear_session()
    await raised(NotFoundError, client.conversations.retrieve(conversation_id))


@scenario
async def answers_in_a_schema() -> None:
    class Weather(BaseModel):
        city: str
        degrees: int

    result = await Runner.run(agent_of("chat", output_type=Weather), "the weather in Oslo?")

    assert isinstance(result.final_output, Weather), result.final_output


@scenario
async def approves_a_tool_call() -> None:
    asked: list[str] = []

    def approve(request: Any) -> Any:
        asked.append(request.data.name)
        return {"approve": True}

    config: Any = {"type": "mcp", "server_label": "tasks", "require_approval": "always"}
    tasks = HostedMCPTool(tool_config=config, on_approval_request=approve)
    result = await Runner.run(agent_of("todo", tools=[tasks]), "add a task: buy bread", auto_previous_response_id=True)

    same(asked, ["add_task"])
    holds("buy bread", result.final_output)


@scenario
async def looks_at_an_image() -> None:
    part: Any = {"type": "input_image", "image_url": RED_PIXEL, "detail": "auto"}
    question: Any = {"role": "user", "content": [{"type": "input_text", "text": "what is in this image?"}, part]}

    result = await Runner.run(agent_of("chat"), [question])

    assert result.final_output


@scenario
async def hears_of_a_failure() -> None:
    error = await raised(ModelBehaviorError, Runner.run(agent_of("chat"), FAILING))

    holds("The model refuses this request.", str(error))


@scenario
async def completes_a_chat() -> None:
    model = OpenAIChatCompletionsModel("chat", client)

    result = await Runner.run(Agent(name="Helper", model=model, tools=[get_weather]), WEATHER)

    holds(WEATHER_RESULT, result.final_output)


if __name__ == "__main__":
    run()
