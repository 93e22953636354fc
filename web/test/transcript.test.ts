/** The reducer of events: however the stream comes, the transcript is the same. */

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { accepted, changed, newTurn, prepended, refreshed, settled, type Transcript, turnsOf, withEvents } from "../src/protocol/transcript";
import { type Item, readResponse, readStoredItem, readStreamEvent, readTreeResponse, type StoredItem, type StreamEvent, type TreeResponse } from "../src/protocol/wire";

const ID = "resp_1";

/** A stream as the gateway sends it: reasoning, an abandoned message, a call, a message, the end. */
function wireStream(words: readonly string[], abandoned: readonly string[], status: string): readonly Record<string, unknown>[] {
  const events: Record<string, unknown>[] = [];
  const add = (type: string, rest: Record<string, unknown>): void => void events.push({ type: `response.${type}`, sequence_number: events.length, ...rest });
  const message = (id: string, index: number, said: readonly string[], end: string): Record<string, unknown> => {
    const part = (text: string): Record<string, unknown> => ({ type: "output_text", text, annotations: [], logprobs: [] });
    const item = (now: string, content: readonly unknown[]): Record<string, unknown> => ({ id, type: "message", role: "assistant", status: now, content });
    add("output_item.added", { output_index: index, item: item("in_progress", []) });
    add("content_part.added", { output_index: index, item_id: id, content_index: 0, part: part("") });
    for (const delta of said) add("output_text.delta", { output_index: index, item_id: id, content_index: 0, delta, logprobs: [] });
    const text = said.join("");
    add("output_text.done", { output_index: index, item_id: id, content_index: 0, text, logprobs: [] });
    add("content_part.done", { output_index: index, item_id: id, content_index: 0, part: part(text) });
    const done = item(end, [part(text)]);
    add("output_item.done", { output_index: index, item: done });
    return done;
  };
  add("created", { response: { id: ID, status: "queued" } });
  add("queued", { response: { id: ID, status: "queued" } });
  add("in_progress", { response: { id: ID, status: "in_progress" } });
  if (abandoned.length > 0) message("msg_a", 0, abandoned, "incomplete");
  const call = { id: "mcp_1", type: "mcp_call", server_label: "tasks", name: "add_task", approval_request_id: null };
  add("output_item.added", { output_index: 1, item: { ...call, arguments: "", output: null, error: null, status: "in_progress" } });
  add("mcp_call.in_progress", { output_index: 1, item_id: "mcp_1" });
  add("mcp_call_arguments.done", { output_index: 1, item_id: "mcp_1", arguments: "{}" });
  const called = { ...call, arguments: "{}", output: "{}", error: null, status: "completed" };
  add("output_item.done", { output_index: 1, item: called });
  const said = message("msg_b", 2, words, status === "cancelled" ? "incomplete" : "completed");
  const type = status === "failed" ? "failed" : status === "completed" ? "completed" : "incomplete";
  const error = status === "failed" ? { code: "server_error", message: "no" } : null;
  add(type, { response: { id: ID, status, error, incomplete_details: null, output: [called, said] } });
  return events;
}

const streams = fc
  .record({
    words: fc.array(fc.string({ maxLength: 5 }), { maxLength: 12 }),
    abandoned: fc.array(fc.string({ minLength: 1, maxLength: 5 }), { maxLength: 3 }),
    status: fc.constantFrom("completed", "failed", "cancelled", "incomplete"),
  })
  .map(({ words, abandoned, status }) => wireStream(words, abandoned, status).map((event) => readStreamEvent(event)).filter((event) => event !== null));

const START: Transcript = accepted([newTurn("key", [], null, 0)], "key", readResponse({ id: ID, status: "queued", created_at: 1 }));
const whole = (events: readonly StreamEvent[]): Transcript => withEvents(START, ID, events);

describe("a stream", () => {
  test("gives the same transcript however it is cut into batches", () => {
    fc.assert(
      fc.property(streams, fc.array(fc.nat()), (events, cuts) => {
        const places = [...new Set(cuts.map((cut) => cut % (events.length + 1)))].sort((a, b) => a - b);
        const batches = [0, ...places].map((start, index) => events.slice(start, places[index] ?? events.length));
        expect(batches.reduce((shown, batch) => withEvents(shown, ID, batch), START)).toEqual(whole(events));
      }),
    );
  });

  test("gives the same transcript with any repetitions, overlaps and gaps that are told again", () => {
    fc.assert(
      fc.property(streams, fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 20 }), (events, spans) => {
        let shown = START;
        for (const [from, length] of spans) {
          const start = from % events.length;
          shown = withEvents(shown, ID, events.slice(start, start + length));
        }
        const seen = shown[0]?.seen ?? -1;
        expect(withEvents(shown, ID, events.slice(seen + 1))).toEqual(whole(events));
      }),
    );
  });

  test("gives the same transcript when two readers' events come mixed", () => {
    fc.assert(
      fc.property(streams, fc.array(fc.boolean()), fc.nat(), (events, turns, from) => {
        const [left, right] = [[...events], events.slice(from % events.length)];
        const mixed: StreamEvent[] = [];
        for (const isLeft of turns) mixed.push(...(isLeft ? left : right).splice(0, 1));
        expect(withEvents(START, ID, [...mixed, ...right, ...left])).toEqual(whole(events));
      }),
    );
  });

  test("can be resumed behind any of its events", () => {
    fc.assert(
      fc.property(streams, fc.nat(), (events, at) => {
        const cut = at % (events.length + 1);
        const first = withEvents(START, ID, events.slice(0, cut));
        expect(first[0]?.seen).toBe(cut - 1);
        expect(withEvents(first, ID, events.slice(cut))).toEqual(whole(events));
      }),
    );
  });

  test("leaves nothing of what a worker that died had begun", () => {
    fc.assert(
      fc.property(streams, (events) => {
        expect(whole(events)[0]?.output.map((item: Item) => item.id)).toEqual(["mcp_1", "msg_b"]);
      }),
    );
  });

  test("that was seen to its end changes nothing, not even the identity of what is shown", () => {
    fc.assert(
      fc.property(streams, (events) => {
        const shown = whole(events);
        expect(withEvents(shown, ID, events)).toBe(shown);
      }),
    );
  });
});

interface Said {
  readonly responseId: string | null;
  readonly items: number;
}

/** A path as the lists of the server tell it, oldest first. */
function path(turns: readonly Said[]): { readonly items: readonly StoredItem[]; readonly tree: readonly TreeResponse[] } {
  const items = turns.flatMap(({ responseId, items: count }, place) =>
    Array.from({ length: count }, (_, index) =>
      readStoredItem({
        id: `msg_${place}_${index}`,
        type: "message",
        role: index === 0 ? "user" : "assistant",
        status: "completed",
        content: [{ type: "output_text", text: "x" }],
        response_id: responseId,
        created_at: place,
      }),
    ),
  );
  const tree = turns.flatMap(({ responseId }) => (responseId ? [readTreeResponse({ id: responseId, status: "completed", sibling_ids: [responseId] })] : []));
  return { items: items.filter((item) => item !== null), tree };
}

const paths = fc
  .array(fc.record({ isAdded: fc.boolean(), items: fc.integer({ min: 1, max: 4 }) }), { maxLength: 8 })
  .map((turns) => path(turns.map(({ isAdded, items }, place) => ({ responseId: isAdded ? null : `resp_${place}`, items: isAdded ? 1 : items }))));

describe("a path", () => {
  test("is the same however its pages cut it", () => {
    fc.assert(
      fc.property(paths, fc.nat(), ({ items, tree }, at) => {
        const cut = at % (items.length + 1);
        const joined = prepended(turnsOf(items.slice(cut), tree), turnsOf(items.slice(0, cut), tree));
        const unnamed = (transcript: Transcript): unknown => transcript.map(({ createdAt: _, ...turn }) => turn);
        expect(unnamed(joined)).toEqual(unnamed(turnsOf(items, tree)));
      }),
    );
  });

  test("that is read again is left as it is, and turns keep their ids", () => {
    fc.assert(
      fc.property(paths, ({ items, tree }) => {
        const shown = turnsOf(items, tree);
        expect(refreshed(shown, turnsOf(items, tree))).toBe(shown);
      }),
    );
  });

  test("keeps what is on its way behind what was read", () => {
    const { items, tree } = path([{ responseId: "resp_0", items: 2 }]);
    const sending = newTurn("key", [], "resp_0", 9);
    const shown = [...turnsOf(items, tree), sending];
    const more = path([
      { responseId: "resp_0", items: 2 },
      { responseId: "resp_1", items: 2 },
    ]);
    expect(refreshed(shown, turnsOf(more.items, more.tree)).map((turn) => turn.id)).toEqual(["resp_0", "resp_1", "key"]);
  });

  test("has a message once that was both accepted here and read from the server", () => {
    const { items, tree } = path([{ responseId: ID, items: 1 }]);
    const shown = refreshed([newTurn("key", [], null, 0)], turnsOf(items, tree));
    const after = accepted(shown, "key", readResponse({ id: ID, status: "in_progress" }));
    expect(after.map((turn) => [turn.id, turn.responseId])).toEqual([["key", ID]]);
  });

  test("goes on to be followed where its stream is", () => {
    const half = withEvents(START, ID, wireStream(["a", "b"], [], "completed").map((event) => readStreamEvent(event)).filter((event) => event !== null).slice(0, 9));
    const { items, tree } = path([{ responseId: ID, items: 2 }]);
    expect(refreshed(half, turnsOf(items, tree))[0]).toMatchObject({ id: "key", seen: 8, status: "in_progress" });
  });
});

test("a turn whose response was deleted is at its end", () => {
  expect(settled(START, ID)[0]?.status).toBe("completed");
  expect(settled(settled(START, ID), ID)).toEqual(settled(START, ID));
});

test("a change of nothing is no change", () => {
  expect(changed(START, "key", (turn) => turn)).toBe(START);
  expect(changed(START, "elsewhere", (turn) => ({ ...turn, seen: 9 }))).toBe(START);
});
