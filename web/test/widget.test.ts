/** The widget's own logic: what it takes from a host page, and what it tells it. */

import fc from "fast-check";
import { expect, test } from "vitest";

import { newTurn, type Transcript, type TurnStatus } from "../src/protocol/transcript";
import { accentsOf, contrast } from "../src/widget/accent";
import { badgeOf, Unread } from "../src/widget/unread";
import { readWishes } from "../src/widget/wishes";

const colour = fc.integer({ min: 0, max: 0xffffff }).map((value) => `#${value.toString(16).padStart(6, "0")}`);

test("an accent of any colour can be read on both papers, and stays as it is where it can be read already", () => {
  fc.assert(
    fc.property(colour, (accent) => {
      const { light, dark } = accentsOf(accent);
      expect(contrast(light, "#ebebe6")).toBeGreaterThanOrEqual(4.5);
      expect(contrast(dark, "#2a2f38")).toBeGreaterThanOrEqual(4.5);
      if (contrast(accent, "#ebebe6") >= 4.5) expect(light).toBe(accent);
    }),
  );
});

test.each([
  ["https://shop.example", "https://shop.example"],
  ["http://localhost:8090", "http://localhost:8090"],
  ["https://shop.example/", null],
  ["https://shop.example/path", null],
  ["https://SHOP.example", null],
  ["*", null],
  ["null", null],
  ["javascript:alert(1)", null],
  ["", null],
])("the host %j is taken as %j", (said, taken) => {
  expect(readWishes(new URLSearchParams({ host: said }), undefined).host).toBe(taken);
});

test("a host that is not the page around the frame is none", () => {
  const query = new URLSearchParams({ host: "https://shop.example" });
  expect(readWishes(query, "https://shop.example").host).toBe("https://shop.example");
  expect(readWishes(query, "https://evil.example").host).toBeNull();
});

test("what a host wishes is taken in its form alone", () => {
  const good = { theme: "dark", accent: "#A1b2c3", language: "de-AT", agent: "todo", title: " Ask us " };
  expect(readWishes(new URLSearchParams(good), undefined)).toEqual({ ...good, title: "Ask us", host: null });
  const bad = { theme: "pink", accent: "red;}", language: "../x", agent: "a b", title: " " };
  expect(readWishes(new URLSearchParams(bad), undefined)).toEqual({ theme: null, accent: null, language: null, agent: null, title: null, host: null });
});

function transcript(...statuses: TurnStatus[]): Transcript {
  return statuses.map((status, index) => ({ ...newTurn(`turn-${index}`, [], null, 0), status }));
}

test("answers that ended while the widget was closed are counted, and none that was stopped or seen", () => {
  const unread = new Unread();
  expect(unread.count(transcript("completed"))).toBe(0);
  unread.begin(transcript("completed", "in_progress"));
  expect(unread.count(transcript("completed", "in_progress"))).toBe(0);
  expect(unread.count(transcript("completed", "completed", "cancelled", "failed", "queued"))).toBe(2);
  unread.end();
  expect(unread.count(transcript("completed", "completed", "cancelled", "failed"))).toBe(0);
});

test("a badge has room for one digit", () => {
  expect([0, 1, 9, 10].map(badgeOf)).toEqual(["", "1", "9", "9+"]);
});
