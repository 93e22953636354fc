/** A conversation as a file: for people in Markdown, for programs in JSON. */

import { type Item, type Json, readItem } from "../protocol/wire";
import type { Api } from "../transport/api";
import type { Language } from "../i18n";
import { saveAs } from "./attachments";
import { inLines, inWords } from "./tools";

const PAGES_MAX = 1_000;
const NAME_CHARS_MAX = 80;

export type Format = "markdown" | "json";

/** Save the active branch of a conversation. Throws what requests do. */
export async function exportConversation(api: Api, id: string, format: Format, language: Language): Promise<void> {
  const [conversation, items] = [await api.conversationAsStored(id), await allItems(api, id)];
  const title = String(conversation["title"] || language.words.list.untitled);
  const name = fileName(title);
  if (format === "json") {
    saveAs(new Blob([`${JSON.stringify({ conversation, items }, null, 2)}\n`], { type: "application/json" }), `${name}.json`);
  } else {
    saveAs(new Blob([asMarkdown(title, items, language)], { type: "text/markdown" }), `${name}.md`);
  }
}

async function allItems(api: Api, id: string): Promise<readonly Json[]> {
  let items: readonly Json[] = [];
  let after: string | null = null;
  for (let pages = 0; pages < PAGES_MAX; pages += 1) {
    const page: Awaited<ReturnType<Api["itemsAsStored"]>> = await api.itemsAsStored(id, after);
    items = [...items, ...page.data];
    if (!page.hasMore) break;
    after = page.lastId;
  }
  return items;
}

/** Each message under a heading with its author; calls of tools as quotations. */
export function asMarkdown(title: string, items: readonly Json[], language: Language): string {
  const blocks = items.map(readItem).flatMap((item) => (item ? blockOf(item, language) : []));
  return `${[`# ${title}`, ...blocks].join("\n\n")}\n`;
}

function blockOf(item: Item, { words }: Language): readonly string[] {
  switch (item.type) {
    case "message": {
      const author = { user: words.message.you, assistant: words.message.assistant, system: words.message.system }[item.role];
      const files = item.attachments.map((file) => `- ${file.name ?? (file.kind === "image" ? words.message.image : words.message.file)}`);
      return [`## ${author}`, ...(files.length > 0 ? [files.join("\n")] : []), ...(item.text ? [item.text] : [])];
    }
    case "tool_call": {
      const outcome = item.error ?? item.output;
      const given = [words.tool.arguments, item.arguments] as const;
      const came = [item.error === null ? words.tool.result : words.tool.error, outcome ?? ""] as const;
      const values = [given, came].filter(([, text]) => text !== "").map(([term, text]) => `${term}:\n\n${fenced(inLines(text))}`);
      return [quoted([`**${inWords(item.name)}**`, ...values].join("\n\n"))];
    }
    case "reasoning":
    case "approval_request":
    case "approval_answer":
      return [];
  }
}

/** In a fence that is longer than any within. */
function fenced(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([marks]) => marks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

function quoted(text: string): string {
  return text.replace(/^/gm, "> ").replace(/ +$/gm, "");
}

function fileName(title: string): string {
  return title.replace(/[^\p{L}\p{N} _-]+/gu, " ").replace(/\s+/g, " ").trim().slice(0, NAME_CHARS_MAX) || "conversation";
}
