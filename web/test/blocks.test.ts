/** Markdown as it comes. */

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { blocksOf, withoutHalfFence } from "../src/view/blocks";

const lines = fc.array(fc.constantFrom("", "words", "```", "````js", "~~~", "- item", "  more", "1. one", "| a | b |", "> said", "# Title", "`code` is", "   ```"), {
  maxLength: 25,
});

describe("blocks", () => {
  test("are the text when they are joined", () => {
    fc.assert(fc.property(lines, (all) => blocksOf(all.join("\n")).join("") === all.join("\n")));
  });

  test("but for the last stay the same while the text grows by lines", () => {
    fc.assert(
      fc.property(lines, fc.nat(), (all, at) => {
        const before = blocksOf(all.slice(0, at % (all.length + 1)).join("\n"));
        const after = blocksOf(all.join("\n"));
        const settled = before.slice(0, -1);
        expect(after.slice(0, settled.length)).toEqual(settled);
      }),
    );
  });

  test("do not cut code, lists or tables", () => {
    expect(blocksOf("```\na\n\nb\n```\n\nafter")).toEqual(["```\na\n\nb\n```\n\n", "after"]);
    expect(blocksOf("1. a\n\n2. b\n\n   more\n\nafter")).toEqual(["1. a\n\n2. b\n\n   more\n\n", "after"]);
  });

  test("are one where a definition holds for all of them", () => {
    expect(blocksOf("[a]\n\nb\n\n[a]: https://example.org")).toHaveLength(1);
  });
});

describe("half a fence", () => {
  test.each(["`", "``", "```", "```py", "~~", "~~~", "  ```"])("%j is not shown yet", (last) => {
    expect(withoutHalfFence(`words\n${last}`)).toBe("words\n");
  });

  test.each(["`code` is", "words", "`code", "~~struck~~ out", "```py\n"])("%j is shown", (last) => {
    expect(withoutHalfFence(`words\n${last}`)).toBe(`words\n${last}`);
  });
});
