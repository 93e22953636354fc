/** What a file is, and what a conversation becomes as one. */

import { expect, test } from "vitest";

import { ENGLISH } from "../src/i18n";
import { kindOf } from "../src/state/uploads";
import { asMarkdown } from "../src/view/exporting";

const bytes = (...values: number[]): Blob => new Blob([new Uint8Array(values)]);

test.each([
  ["a PNG, whatever it is called", bytes(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10), "image"],
  ["a JPEG", bytes(0xff, 0xd8, 0xff, 0xe0), "image"],
  ["a WebP", new Blob(["RIFF\x01\x02\x03\x04WEBPVP8 "]), "image"],
  ["a PDF", new Blob(["%PDF-1.7\n"]), "file"],
  ["text in UTF-8", new Blob(["grüße ✓\n"]), "file"],
  ["text that is cut within a character where the look at it ends", new Blob([`${"x".repeat(64 * 1024 - 1)}ü`]), "file"],
  ["text in Latin-1", bytes(0x67, 0x72, 0xfc, 0x6e), null],
  ["what has zeros", bytes(0, 1, 2), null],
])("%s", async (_, file, kind) => {
  expect(await kindOf(file)).toBe(kind);
});

test("a conversation in Markdown keeps the Markdown of its messages, and fences what could end a fence", () => {
  const items = [
    { type: "message", role: "user", content: [{ type: "input_text", text: "hello" }, { type: "input_file", file_id: "file_1", filename: "notes.txt" }] },
    { type: "reasoning", summary: [{ text: "hidden" }] },
    { type: "mcp_call", name: "add_task", arguments: '{"title":"milk"}', output: "```\ndone" },
    { type: "message", role: "assistant", content: [{ type: "output_text", text: "**done**" }] },
  ];
  expect(asMarkdown("Milk", items, ENGLISH)).toBe(
    [
      "# Milk",
      "## You",
      "- notes.txt",
      "hello",
      '> **Add task**\n>\n> Input:\n>\n> ```\n> {\n>   "title": "milk"\n> }\n> ```\n>\n> Result:\n>\n> ````\n> ```\n> done\n> ````',
      "## Assistant",
      "**done**\n",
    ].join("\n\n"),
  );
});
