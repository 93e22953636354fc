/** No words for people outside of the catalogue. */

import { expect, test } from "vitest";

const BETWEEN_TAGS = />\s*([A-Za-z][^<>{}=;()]*)<\//g;
const ATTRIBUTES = /\b(?:aria-label|aria-description|title|placeholder|alt|label)="([^"]*[A-Za-z][^"]*)"/g;
const SOURCES = import.meta.glob<string>("../src/view/*.tsx", { query: "?raw", import: "default", eager: true });

test.each(Object.entries(SOURCES))("%s takes its words from the catalogue", (_, source) => {
  const found = [...source.matchAll(BETWEEN_TAGS), ...source.matchAll(ATTRIBUTES)].map((match) => match[1]?.trim());
  expect(found).toEqual([]);
});
