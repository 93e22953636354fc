/** Colours for code, of its own file: fetched when the first block of a known language has closed. */

import { createLowlight } from "lowlight";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import markdown from "highlight.js/lib/languages/markdown";
import php from "highlight.js/lib/languages/php";
import python from "highlight.js/lib/languages/python";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import shell from "highlight.js/lib/languages/shell";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createElement, Fragment, type ReactNode } from "react";

const CHARS_MAX = 50_000; // more takes longer than a reader's patience

const lowlight = createLowlight({
  bash,
  c,
  cpp,
  csharp,
  css,
  diff,
  dockerfile,
  go,
  ini,
  java,
  javascript,
  json,
  kotlin,
  markdown,
  php,
  python,
  ruby,
  rust,
  shell,
  sql,
  typescript,
  xml,
  yaml,
});

interface Node {
  readonly type: string;
  readonly value?: string;
  readonly children?: readonly Node[];
  readonly properties?: { readonly className?: unknown };
}

/** The code with spans of classes `hljs-…`; null where the language is not known, or the code is too long. */
export function coloured(code: string, language: string): ReactNode {
  if (code.length > CHARS_MAX || !lowlight.registered(language)) return null;
  return elements(lowlight.highlight(language, code) as Node);
}

function elements(node: Node): ReactNode {
  if (node.value !== undefined) return node.value;
  const children = (node.children ?? []).map(elements);
  const { className } = node.properties ?? {};
  return Array.isArray(className) ? createElement("span", { className: className.join(" ") }, ...children) : createElement(Fragment, null, ...children);
}
