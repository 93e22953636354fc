// OpenAI's client for Node.

import assert from "node:assert/strict";

import OpenAI, { toFile } from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import {
  ADD_MILK, BASE_URL, FAILING, LONG, OTHER_TOKEN, RED_PIXEL, SHOW_LIST, THINKING, TOKEN, WEATHER, WEATHER_PARAMETERS,
  WEATHER_RESULT, all, holds, run, scenario,
} from "./harness.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: TOKEN });
const other = new OpenAI({ baseURL: BASE_URL, apiKey: OTHER_TOKEN });
const GET_WEATHER = {
  type: "function",
  name: "get_weather",
  description: "The weather in a city.",
  parameters: WEATHER_PARAMETERS,
  strict: true,
};
const TERMINAL = ["response.completed", "response.failed", "response.incomplete"];

/** The response, polled until it has ended. */
async function ended(id) {
  for (;;) {
    const response = await client.responses.retrieve(id);
    if (!["queued", "in_progress"].includes(response.status)) return response;
  }
}

/** A background response that has begun to speak. */
async function inMidText(input) {
  const stream = await client.responses.create({ model: "chat", input, background: true, stream: true });
  let response;
  for await (const event of stream) {
    if (event.type === "response.created") response = event.response;
    if (event.type === "response.output_text.delta") break;
  }
  return response;
}

/** Fails unless the numbers are gapless, and one terminal event is last. */
function isJournal(events) {
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  assert.deepEqual(events.filter((event) => TERMINAL.includes(event.type)), [events.at(-1)]);
}

scenario("answers_a_message", async () => {
  const response = await client.responses.create({ model: "chat", input: "hello", metadata: { topic: "greeting" } });

  assert.equal(response.status, "completed");
  assert.ok(response.output_text);
  assert.equal(response.usage.total_tokens, response.usage.input_tokens + response.usage.output_tokens);
  assert.deepEqual(response.metadata, { topic: "greeting" });
  assert.ok(response._request_id);
});

scenario("streams_text", async () => {
  const stream = await client.responses.create({ model: "chat", input: "[[demo: tokens=30]] go", stream: true });
  const events = await all(stream);

  isJournal(events);
  const said = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
  assert.equal(said, events.at(-1).response.output[0].content[0].text);
  assert.deepEqual(new Set(events.map((event) => event.item_id).filter(Boolean)), new Set([events.at(-1).response.output[0].id]));
});

scenario("streams_through_the_helper", async () => {
  const stream = client.responses.stream({ model: "todo", input: ADD_MILK });
  const types = (await all(stream)).map((event) => event.type);
  const final = await stream.finalResponse();

  assert.equal(types[0], "response.created");
  assert.equal(types.at(-1), "response.completed");
  holds("buy milk", final.output_text);
});

scenario("has_tools_run_by_the_server", async () => {
  const added = await client.responses.create({ model: "todo", input: ADD_MILK });
  const listed = await client.responses.create({ model: "todo", input: SHOW_LIST, previous_response_id: added.id });

  assert.deepEqual(added.output.map((item) => item.type), ["mcp_call", "message"]);
  holds("buy milk", listed.output_text);
});

scenario("runs_a_function_for_the_model", async () => {
  const asked = await client.responses.create({ model: "chat", input: WEATHER, tools: [GET_WEATHER] });
  const [call] = asked.output;

  assert.deepEqual([asked.status, call.type, call.name], ["completed", "function_call", "get_weather"]);
  assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
  const answered = await client.responses.create({
    model: "chat",
    previous_response_id: asked.id,
    input: [{ type: "function_call_output", call_id: call.call_id, output: WEATHER_RESULT }],
    tools: [GET_WEATHER],
  });
  holds(WEATHER_RESULT, answered.output_text);
});

scenario("streams_a_function_call", async () => {
  const stream = client.responses.stream({ model: "chat", input: WEATHER, tools: [GET_WEATHER] });
  const events = await all(stream);
  const final = await stream.finalResponse();

  const pieces = events.filter((event) => event.type === "response.function_call_arguments.delta");
  assert.equal(pieces.map((event) => event.delta).join(""), final.output[0].arguments);
});

scenario("approves_a_tool_call", async () => {
  const tools = [{ type: "mcp", server_label: "tasks", require_approval: "always" }];
  const asked = await client.responses.create({ model: "todo", input: "add a task: buy bread", tools });
  const [request] = asked.output;
  assert.deepEqual([request.type, request.name], ["mcp_approval_request", "add_task"]);

  const input = [{ type: "mcp_approval_response", approval_request_id: request.id, approve: true }];
  const made = await client.responses.create({ model: "todo", input, previous_response_id: asked.id, tools });

  assert.deepEqual([made.output[0].type, made.output[0].name], ["mcp_call", "add_task"]);
  holds("buy bread", made.output_text);
});

scenario("shows_its_reasoning", async () => {
  const reasoning = { effort: "low", summary: "auto" };
  const stream = client.responses.stream({ model: "chat", input: THINKING, reasoning });
  const events = await all(stream);
  const [thought, answer] = (await stream.finalResponse()).output;

  const pieces = events.filter((event) => event.type === "response.reasoning_summary_text.delta");
  assert.equal(pieces.map((event) => event.delta).join(""), thought.summary.map((part) => part.text).join(""));
  assert.deepEqual([thought.type, answer.type], ["reasoning", "message"]);
});

scenario("answers_in_a_schema", async () => {
  const Weather = z.object({ city: z.string(), degrees: z.number().int() });
  const response = await client.responses.parse({
    model: "chat",
    input: "the weather in Oslo?",
    text: { format: zodTextFormat(Weather, "weather") },
  });

  Weather.parse(response.output_parsed);
});

scenario("looks_at_an_image", async () => {
  const content = [
    { type: "input_text", text: "what is in this image?" },
    { type: "input_image", image_url: RED_PIXEL, detail: "auto" },
  ];
  const response = await client.responses.create({ model: "chat", input: [{ role: "user", content }] });

  assert.equal(response.status, "completed");
});

scenario("polls_a_background_response", async () => {
  const created = await client.responses.create({ model: "chat", input: "[[demo: tokens=20]] go", background: true });
  assert.deepEqual([created.status, created.output], ["queued", []]);

  const response = await ended(created.id);

  assert.equal(response.status, "completed");
  assert.equal(response.output_text.split(" ").length, 20);
});

scenario("resumes_a_background_stream", async () => {
  const input = "[[demo: tokens=60 delay_ms=5]] go";
  const stream = await client.responses.create({ model: "chat", input, background: true, stream: true });
  const seen = [];
  for await (const event of stream) {
    seen.push(event);
    if (event.sequence_number === 10) break;
  }
  const id = seen[0].response.id;

  seen.push(...(await all(await client.responses.retrieve(id, { stream: true, starting_after: 10 }))));
  const replay = await all(await client.responses.retrieve(id, { stream: true }));

  isJournal(seen);
  assert.deepEqual(seen, replay);
});

scenario("resumes_through_the_helper", async () => {
  const created = await client.responses.create({ model: "chat", input: "[[demo: tokens=60]] go", background: true });

  const stream = client.responses.stream({ response_id: created.id, starting_after: 10 });
  const events = await all(stream);

  assert.equal(events[0].sequence_number, 11);
  assert.equal((await stream.finalResponse()).output_text, (await ended(created.id)).output_text);
});

scenario("keeps_a_conversation", async () => {
  const conversation = await client.conversations.create({ metadata: { topic: "numbers" } });
  for (const number of ["one", "two", "three"]) {
    await client.responses.create({ model: "chat", input: `[[demo: echo]] ${number}`, conversation: conversation.id });
  }

  const items = await all(client.conversations.items.list(conversation.id, { limit: 4, order: "asc" }));
  assert.deepEqual(items.map((item) => item.role), ["user", "assistant", "user", "assistant", "user", "assistant"]);
  holds("two", items[3].content[0].text);
  await client.conversations.update(conversation.id, { metadata: { topic: "counting" } });
  assert.deepEqual((await client.conversations.retrieve(conversation.id)).metadata, { topic: "counting" });
  assert.equal((await client.conversations.delete(conversation.id)).deleted, true);
  await assert.rejects(client.conversations.retrieve(conversation.id), OpenAI.NotFoundError);
});

scenario("puts_items_into_a_conversation", async () => {
  const first = { type: "message", role: "user", content: "the code word is apricot" };
  const conversation = await client.conversations.create({ items: [first] });
  const second = { type: "message", role: "user", content: "and the number is seven" };
  const added = await client.conversations.items.create(conversation.id, { items: [second] });

  const listed = await all(client.conversations.items.list(conversation.id, { limit: 1, order: "asc" }));
  assert.deepEqual([listed.length, listed[1].id], [2, added.data[0].id]);
  await client.conversations.items.delete(added.data[0].id, { conversation_id: conversation.id });
  assert.equal((await all(client.conversations.items.list(conversation.id))).length, 1);
});

scenario("follows_up", async () => {
  const first = await client.responses.create({ model: "chat", input: "[[demo: echo]] the code word is apricot" });
  const second = await client.responses.create({
    model: "chat",
    input: "how many messages have I sent?",
    previous_response_id: first.id,
  });

  holds("2", second.output_text);
  assert.deepEqual(second.conversation, first.conversation);
});

scenario("cancels_in_mid_text", async () => {
  const running = await inMidText(LONG);

  const cancelled = await client.responses.cancel(running.id);

  assert.equal(cancelled.status, "cancelled");
  const final = await client.responses.stream({ response_id: running.id }).finalResponse();
  assert.equal(final.status, "cancelled");
  assert.ok(final.output_text.startsWith("w0"));
});

scenario("hears_of_a_failure", async () => {
  const failed = await client.responses.create({ model: "chat", input: FAILING });

  assert.deepEqual([failed.status, failed.error.code], ["failed", "invalid_prompt"]);
  const replay = await all(await client.responses.retrieve(failed.id, { stream: true }));
  isJournal(replay);
  assert.equal(replay.at(-1).type, "response.failed");
});

scenario("deletes_a_response", async () => {
  const response = await client.responses.create({ model: "chat", input: "hello" });

  await client.responses.delete(response.id);

  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
});

scenario("finds_nothing_of_another_user", async () => {
  const theirs = await client.responses.create({ model: "chat", input: "hello" });

  await assert.rejects(other.responses.retrieve(theirs.id), OpenAI.NotFoundError);
  await assert.rejects(other.responses.cancel(theirs.id), OpenAI.NotFoundError);
  await assert.rejects(other.conversations.retrieve(theirs.conversation.id), OpenAI.NotFoundError);
  const followUp = { model: "chat", input: "hello", previous_response_id: theirs.id };
  await assert.rejects(other.responses.create(followUp), OpenAI.NotFoundError);
});

scenario("is_told_what_is_wrong", async () => {
  const id = "0".repeat(32);
  const both = { model: "chat", input: "hello", conversation: `conv_${id}`, previous_response_id: `resp_${id}` };

  await assert.rejects(client.responses.create(both), (error) => {
    holds("mutually exclusive", error.message);
    return error instanceof OpenAI.BadRequestError && Boolean(error.requestID);
  });
});

scenario("is_refused_with_a_bad_key", async () => {
  const nobody = new OpenAI({ baseURL: BASE_URL, apiKey: "nonsense" });

  await assert.rejects(nobody.responses.create({ model: "chat", input: "hello" }), OpenAI.AuthenticationError);
});

scenario("lists_models", async () => {
  const names = (await all(client.models.list())).map((model) => model.id);

  assert.ok(names.includes("chat") && names.includes("todo"), names.join());
});

scenario("completes_a_chat", async () => {
  const messages = [{ role: "user", content: "[[demo: echo]] as in former times" }];
  const whole = await client.chat.completions.create({ model: "chat", messages });
  const chunks = await all(await client.chat.completions.create({ model: "chat", messages, stream: true }));

  holds("as in former times", whole.choices[0].message.content);
  const streamed = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(streamed, whole.choices[0].message.content);
});

scenario("keeps_a_file", async () => {
  const bytes = Buffer.from("the code word is apricot");
  const kept = await client.files.create({ file: await toFile(bytes, "notes.txt"), purpose: "user_data" });
  const content = [{ type: "input_text", text: "read this" }, { type: "input_file", file_id: kept.id }];

  const response = await client.responses.create({ model: "chat", input: [{ role: "user", content }] });

  assert.equal(response.status, "completed");
  assert.equal(await (await client.files.content(kept.id)).text(), bytes.toString());
  assert.equal((await client.files.delete(kept.id)).deleted, true);
});

await run();
