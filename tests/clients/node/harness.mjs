// What the Node clients' scripts share: each of their scenarios runs once, and its end is a line of JSON on stdout,
// as in ../harness.py: {"name": …, "ok": true|false, "detail": …}.

import assert from "node:assert/strict";

export const BASE_URL = process.env.BASE_URL; // ends in /v1
export const TOKEN = process.env.TOKEN;
export const OTHER_TOKEN = process.env.OTHER_TOKEN; // another user's

export const ADD_MILK = "add a task: buy milk";
export const SHOW_LIST = "what is on my list?";
export const LONG = "[[demo: tokens=5000 delay_ms=20]] go"; // an answer that lasts until it is cancelled
export const FAILING = "[[demo: fault=400]] go";
export const THINKING = "[[demo: reasoning=5 tokens=5]] go"; // five words of reasoning, then the answer
export const WEATHER = '[[demo: call=get_weather args={"city":"Oslo"}]] what is the weather in Oslo?';
export const WEATHER_PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
export const WEATHER_RESULT = "14 degrees and drizzle";
export const RED_PIXEL =
  "data:image/png;base64," +
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

const MILLISECONDS_MAX = 45_000; // of one scenario
const AT_ONCE = 4;
const scenarios = [];

/** Adds a scenario to the script. It fails by throwing. */
export function scenario(name, body) {
  scenarios.push({ name, body });
}

/** Runs all of the script's scenarios, or those that its arguments name; some at a time. */
export async function run() {
  const wanted = process.argv.slice(2);
  const waiting = scenarios.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const detail = await failureOf(next.body);
      console.log(JSON.stringify({ name: next.name, ok: detail === "", detail }));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  process.exit(0); // connections that are kept alive would hold it
}

async function failureOf(body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${MILLISECONDS_MAX} ms`)), MILLISECONDS_MAX);
  });
  try {
    await Promise.race([body(), late]);
    return "";
  } catch (error) {
    return String(error?.stack ?? error);
  } finally {
    clearTimeout(timer);
  }
}

/** Fails unless `part` is in `whole`, showing both. */
export function holds(part, whole) {
  assert.ok(String(whole).includes(part), `${JSON.stringify(part)} is not in ${JSON.stringify(whole)}`);
}

/** All that an async iterable gives. */
export async function all(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}
