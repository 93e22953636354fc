/** Groups of turns: nothing is lost or moved, and what did not change is the same value. */

import fc from "fast-check";
import { expect, test } from "vitest";

import { newTurn, type Transcript, type Turn } from "../src/protocol/transcript";
import { type Group, grouped, TURNS_PER_GROUP } from "../src/view/groups";

function turns(count: number, name = "turn"): Transcript {
  return Array.from({ length: count }, (_, index) => newTurn(`${name}-${index}`, [], null, 0));
}

function changedAt(transcript: Transcript, index: number): Transcript {
  const turn = transcript.at(index);
  return turn ? transcript.with(index, { ...turn }) : transcript;
}

function all(groups: readonly Group[]): readonly Turn[] {
  return groups.flatMap((group) => group.turns);
}

type Change = { readonly kind: "before" | "behind" | "change" | "cut" | "drop"; readonly count: number };

const changes = fc.array(
  fc.record({ kind: fc.constantFrom("before", "behind", "change", "cut", "drop"), count: fc.nat({ max: 3 * TURNS_PER_GROUP }) }) as fc.Arbitrary<Change>,
  { maxLength: 12 },
);

function after(transcript: Transcript, { kind, count }: Change, name: string): Transcript {
  switch (kind) {
    case "before":
      return [...turns(count, name), ...transcript];
    case "behind":
      return [...transcript, ...turns(count, name)];
    case "change":
      return count < transcript.length ? changedAt(transcript, count) : transcript;
    case "cut":
      return transcript.slice(0, count);
    case "drop":
      return transcript.filter((_, index) => index !== count);
  }
}

test("whatever happens, the groups hold the transcript, are named differently and do not outgrow their size", () => {
  fc.assert(
    fc.property(fc.nat({ max: 3 * TURNS_PER_GROUP }), changes, (count, happens) => {
      let transcript = turns(count);
      let groups = grouped([], transcript);
      for (const [index, change] of happens.entries()) {
        transcript = after(transcript, change, `new-${index}`);
        const before = groups;
        groups = grouped(before, transcript);
        expect(all(groups)).toEqual(transcript);
        expect(groups.every((group) => group.turns.length > 0 && group.turns.length <= TURNS_PER_GROUP)).toBe(true);
        expect(new Set(groups.map((group) => group.key)).size).toBe(groups.length);
      }
    }),
  );
});

test("while the last turn grows, all groups but the last are the same values", () => {
  const transcript = turns(10 * TURNS_PER_GROUP);
  const groups = grouped([], transcript);
  const grown = grouped(groups, changedAt(transcript, transcript.length - 1));
  expect(grown.slice(0, -1)).toEqual(groups.slice(0, -1));
  expect(grown.filter((group, index) => group === groups[index]).length).toBe(groups.length - 1);
  expect(grown.at(-1)?.key).toBe(groups.at(-1)?.key);
});

test("what is put before or behind leaves the others the same values", () => {
  const transcript = turns(3 * TURNS_PER_GROUP);
  const groups = grouped([], transcript);
  const more = grouped(groups, [...turns(7, "earlier"), ...transcript, ...turns(1, "later")]);
  expect(groups.every((group) => more.includes(group))).toBe(true);
});
