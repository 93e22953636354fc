/**
 * Markdown as it comes: what must not be shown yet, and where a long text can be cut, so that only its last part is
 * parsed again with each word.
 */

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const MAYBE_FENCE = /^ {0,3}(`{1,}|~{1,})[^`~\n]*$/;
const DEFINITION = /^ {0,3}\[[^\]\n]+\]:/m;
const CONTINUES = /^(\s|[-*+>|]|\d{1,9}[.)])/;

/** Without a last line that may be half a fence: shown, it would be something else with the next word. */
export function withoutHalfFence(text: string): string {
  const start = text.lastIndexOf("\n") + 1;
  const last = text.slice(start);
  if (!MAYBE_FENCE.test(last)) return text;
  const marks = last.trimStart();
  const isShort = /^(`{1,2}|~{1,2})$/.test(marks);
  const isFence = marks.startsWith("```") || marks.startsWith("~~~");
  return isShort || isFence ? text.slice(0, start) : text;
}

/** The blocks of a text. Joined by nothing they are the text; all but the last stay the same while it grows. */
export function blocksOf(text: string): readonly string[] {
  // Definitions of links and footnotes hold for the whole text.
  if (DEFINITION.test(text)) return [text];
  const blocks: string[] = [];
  let start = 0;
  let position = 0;
  let fence: string | null = null;
  let isAfterBlank = false;
  for (const line of text.split("\n")) {
    if (fence === null && isAfterBlank && line !== "" && !CONTINUES.test(line)) {
      blocks.push(text.slice(start, position));
      start = position;
    }
    fence = fenceAfter(fence, line);
    isAfterBlank = line.trim() === "";
    position += line.length + 1;
  }
  blocks.push(text.slice(start));
  return blocks;
}

function fenceAfter(fence: string | null, line: string): string | null {
  const match = FENCE.exec(line);
  const marks = match?.[1] ?? "";
  const rest = match?.[2] ?? "";
  if (fence === null) return marks && !(marks.startsWith("`") && rest.includes("`")) ? marks : null;
  const isEnd = marks[0] === fence[0] && marks.length >= fence.length && rest.trim() === "";
  return isEnd ? null : fence;
}
