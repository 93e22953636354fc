/** How long a tool took: what is read of the wire, and how it is told. */

import { expect, test } from "vitest";

import { de } from "../src/i18n/de";
import { durationOf, ENGLISH } from "../src/i18n";
import { readItem } from "../src/protocol/wire";

const GERMAN = { tag: "de", direction: "ltr", words: de } as const;

test.each([
  [1, "1 ms", "1 millisecond", "1 ms", "1 Millisekunde"],
  [99, "99 ms", "99 milliseconds", "99 ms", "99 Millisekunden"],
  [100, "0.1 s", "0.1 seconds", "0,1 s", "0,1 Sekunden"],
  [420, "0.4 s", "0.4 seconds", "0,4 s", "0,4 Sekunden"],
  [9_949, "9.9 s", "9.9 seconds", "9,9 s", "9,9 Sekunden"],
  [12_345, "12 s", "12 seconds", "12 s", "12 Sekunden"],
])("%i ms are told in the form that fits them", (ms, shown, said, gezeigt, gesagt) => {
  expect(durationOf(ENGLISH, ms)).toEqual({ shown, said });
  expect(durationOf(GERMAN, ms)).toEqual({ shown: gezeigt, said: gesagt });
});

test.each([
  [42, 42],
  [null, null],
  [undefined, null],
  ["42", null],
  [-1, null],
])("a call whose duration_ms is %j took %j", (given, ms) => {
  expect(readItem({ type: "mcp_call", id: "mcp_1", duration_ms: given })).toMatchObject({ durationMs: ms });
});
