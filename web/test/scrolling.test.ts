/** Whose movement a scrolling was. */

import { expect, test } from "vitest";

import { movementOf } from "../src/view/scrolling";

const END = { top: 1_000, fromEnd: 0 };
const ABOVE = { top: 500, fromEnd: 500 };

test.each([
  ["an event that comes late, of what was written before", END, END, "none"],
  ["text that grows below the end", END, { top: 1_000, fromEnd: 400 }, "none"],
  ["rows that are put before", ABOVE, { top: 900, fromEnd: 500 }, "none"],
  ["rows that are put before somebody who left the end by little", { top: 980, fromEnd: 20 }, { top: 1_380, fromEnd: 20 }, "none"],
  ["text that shrinks, so that the end comes up", ABOVE, { top: 300, fromEnd: 0 }, "none"],
  ["a box that becomes higher", { top: 900, fromEnd: 100 }, { top: 900, fromEnd: 0 }, "none"],
  ["a little way up", END, { top: 980, fromEnd: 20 }, "none"],
  ["up", END, { top: 700, fromEnd: 300 }, "away"],
  ["up, while text grows", END, { top: 700, fromEnd: 700 }, "away"],
  ["down, but not to the end", ABOVE, { top: 700, fromEnd: 300 }, "none"],
  ["down to the end", ABOVE, { top: 1_000, fromEnd: 0 }, "to the end"],
  ["down to the end, while text grows", ABOVE, { top: 1_000, fromEnd: 24 }, "to the end"],
] as const)("%s", (_, before, now, movement) => {
  expect(movementOf(before, now)).toBe(movement);
});
