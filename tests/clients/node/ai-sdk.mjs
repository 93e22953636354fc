// Vercel's AI SDK with its two providers for responses: each scenario runs with both, where both can do it.

import assert from "node:assert/strict";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import {
  ADD_MILK, BASE_URL, FAILING, RED_PIXEL, SHOW_LIST, THINKING, TOKEN, WEATHER, WEATHER_RESULT, all, holds, run, scenario,
} from "./harness.mjs";

const openai = createOpenAI({ baseURL: BASE_URL, apiKey: TOKEN });
const openResponses = createOpenResponses({ name: "parley", url: `${BASE_URL}/responses`, apiKey: TOKEN });
const tools = {
  get_weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      assert.equal(city, "Oslo");
      return WEATHER_RESULT;
    },
  }),
};
const Weather = z.object({ city: z.string(), degrees: z.number().int() });

async function answersAMessage(model) {
  const result = await generateText({ model, system: "Be brief.", prompt: "[[demo: echo]] a word" });

  holds("a word", result.text);
  assert.equal(result.finishReason, "stop");
  assert.ok(result.usage.totalTokens > 0);
}

async function streamsText(model) {
  const result = streamText({ model, prompt: "[[demo: tokens=30]] go" });
  const pieces = await all(result.textStream);

  assert.ok(pieces.length > 1);
  assert.equal(pieces.join(""), await result.text);
  assert.equal(await result.finishReason, "stop");
}

async function runsAFunction(model, providerOptions) {
  const result = await generateText({ model, tools, prompt: WEATHER, stopWhen: stepCountIs(3), providerOptions });

  assert.deepEqual(result.steps.map((step) => step.finishReason), ["tool-calls", "stop"]);
  holds(WEATHER_RESULT, result.text);
}

async function runsAFunctionWhileItStreams(model) {
  const result = streamText({ model, tools, prompt: WEATHER, stopWhen: stepCountIs(3) });
  const types = (await all(result.fullStream)).map((part) => part.type);

  assert.deepEqual(types.filter((type) => ["tool-call", "tool-result", "error"].includes(type)), ["tool-call", "tool-result"]);
  holds(WEATHER_RESULT, await result.text);
}

async function sendsBackWhatTheServerSaid(model, prompt, providerOptions) {
  const first = { role: "user", content: prompt };
  const answered = await generateText({ model, messages: [first], providerOptions });
  const question = { role: "user", content: "how many messages have I sent?" };

  const counted = await generateText({ model, messages: [first, ...answered.response.messages, question], providerOptions });

  holds("2", counted.text);
}

async function looksAtAnImage(model) {
  const content = [{ type: "text", text: "what is in this image?" }, { type: "image", image: RED_PIXEL }];

  assert.ok((await generateText({ model, messages: [{ role: "user", content }] })).text);
}

async function answersInASchema(model) {
  const result = await generateText({
    model,
    prompt: "the weather in Oslo?",
    output: Output.object({ schema: Weather, name: "weather" }),
  });

  Weather.parse(result.output);
}

/** What a failed run comes to: an error, or the finish reason that stands for one. */
async function hearsOfAFailure(model) {
  const parts = await all(streamText({ model, prompt: FAILING, maxRetries: 0, onError: () => {} }).fullStream);

  assert.ok(parts.some((part) => part.type === "error" || part.finishReason === "error"), JSON.stringify(parts));
}

scenario("openai_answers_a_message", () => answersAMessage(openai("chat")));
scenario("openai_streams_text", () => streamsText(openai("chat")));
scenario("openai_runs_a_function_for_the_model", () => runsAFunction(openai("chat")));
scenario("openai_runs_a_function_without_storing", () => runsAFunction(openai("chat"), { openai: { store: false } }));
scenario("openai_runs_a_function_while_it_streams", () => runsAFunctionWhileItStreams(openai("chat")));
scenario("openai_sends_back_what_the_server_said", () => sendsBackWhatTheServerSaid(openai("chat"), "hello"));
scenario("openai_sends_back_a_tool_call_of_the_server", () => sendsBackWhatTheServerSaid(openai("todo"), ADD_MILK));
scenario("openai_sends_its_reasoning_back", async () => {
  assert.equal((await generateText({ model: openai("chat"), prompt: THINKING })).reasoning.length, 1);
  await sendsBackWhatTheServerSaid(openai("chat"), THINKING);
  await sendsBackWhatTheServerSaid(openai("chat"), THINKING, { openai: { store: false } });
});
scenario("openai_looks_at_an_image", () => looksAtAnImage(openai("chat")));
scenario("openai_answers_in_a_schema", () => answersInASchema(openai("chat")));
scenario("openai_hears_of_a_failure", () => hearsOfAFailure(openai("chat")));

scenario("openai_has_tools_run_by_the_server", async () => {
  const added = await generateText({ model: openai("todo"), prompt: ADD_MILK });

  assert.equal(added.finishReason, "stop");
  holds("buy milk", added.text);
  const previousResponseId = added.providerMetadata.openai.responseId;
  const listed = streamText({ model: openai("todo"), prompt: SHOW_LIST, providerOptions: { openai: { previousResponseId } } });
  holds("buy milk", await listed.text);
  assert.equal(await listed.finishReason, "stop");
});

scenario("openai_goes_on_in_a_conversation", async () => {
  const answer = await fetch(`${BASE_URL}/conversations`, { method: "POST", headers: { authorization: `Bearer ${TOKEN}` } });
  const providerOptions = { openai: { conversation: (await answer.json()).id } };
  await generateText({ model: openai("chat"), prompt: "hello", providerOptions });

  const counted = await generateText({ model: openai("chat"), prompt: "how many messages have I sent?", providerOptions });

  holds("2", counted.text);
});

scenario("openai_completes_a_chat", async () => {
  await answersAMessage(openai.chat("chat"));
  await streamsText(openai.chat("chat"));
  await runsAFunction(openai.chat("chat"));
});

scenario("open_responses_answers_a_message", () => answersAMessage(openResponses("chat")));
scenario("open_responses_streams_text", () => streamsText(openResponses("chat")));
scenario("open_responses_runs_a_function_for_the_model", () => runsAFunction(openResponses("chat")));
scenario("open_responses_runs_a_function_while_it_streams", () => runsAFunctionWhileItStreams(openResponses("chat")));
scenario("open_responses_sends_back_what_the_server_said", () => sendsBackWhatTheServerSaid(openResponses("chat"), "hello"));
scenario("open_responses_sends_its_reasoning_back", async () => {
  // Without a stream it reads raw reasoning alone, which we do not send: summaries only.
  const streamed = streamText({ model: openResponses("chat"), prompt: THINKING });
  assert.equal((await streamed.reasoningText).split(" ").length, 5);
  await sendsBackWhatTheServerSaid(openResponses("chat"), THINKING);
});
scenario("open_responses_looks_at_an_image", () => looksAtAnImage(openResponses("chat")));
scenario("open_responses_answers_in_a_schema", () => answersInASchema(openResponses("chat")));
scenario("open_responses_hears_of_a_failure", () => hearsOfAFailure(openResponses("chat")));

scenario("open_responses_has_tools_run_by_the_server", async () => {
  const added = await streamText({ model: openResponses("todo"), prompt: ADD_MILK });

  holds("buy milk", await added.text);
  assert.equal(await added.finishReason, "stop");
});

await run();
