/** Text of the model, shown as Markdown. Raw HTML stays text, images are never loaded, links leave no trace. */

import { type ComponentProps, createContext, memo, type ReactNode, startTransition, useContext, useEffect, useState } from "react";
import { gfmFromMarkdown } from "mdast-util-gfm";
import { gfm } from "micromark-extension-gfm";
import Markdown, { type Components } from "react-markdown";

import { useWords } from "../i18n";
import { blocksOf, withoutHalfFence } from "./blocks";
import { CopyButton } from "./parts";

const PLUGINS = [readGfm];

/** Tables, task lists, bare links. As `remark-gfm`, without its half that writes Markdown: nothing here does. */
function readGfm(this: { data: () => object }): void {
  const data: { micromarkExtensions?: unknown[]; fromMarkdownExtensions?: unknown[] } = this.data();
  (data.micromarkExtensions ??= []).push(gfm());
  (data.fromMarkdownExtensions ??= []).push(gfmFromMarkdown());
}

interface Node {
  readonly type: string;
  readonly value?: string;
  readonly children?: readonly Node[];
  readonly properties?: Readonly<Record<string, unknown>>;
}

function Link({ href, children }: ComponentProps<"a">): ReactNode {
  if (!href || href.startsWith("#")) return <>{children}</>;
  return (
    <a href={href} target="_blank" rel="noopener noreferrer">
      {children}
    </a>
  );
}

/** An image of a model's choosing could carry off what was said, in its address. */
function Image({ alt, src }: ComponentProps<"img">): ReactNode {
  const words = useWords();
  return <span className="image-withheld">{words.message.imageNotLoaded(alt || String(src ?? ""))}</span>;
}

function Table({ children }: ComponentProps<"table">): ReactNode {
  return (
    <div className="table-scroll" tabIndex={0} role="group">
      <table>{children}</table>
    </div>
  );
}

/** Whether the end of what is shown is still to come. */
const IsOpen = createContext(false);

/** The code in colours, once it is whole and they are there. */
function useColours(code: string, language: string): ReactNode {
  const isOpen = useContext(IsOpen);
  const [colours, setColours] = useState<{ readonly code: string; readonly shown: ReactNode } | null>(null);
  useEffect(() => {
    if (isOpen || language === "") return;
    let isWanted = true;
    const show = async (): Promise<void> => {
      const { coloured } = await import("./colours");
      if (isWanted) startTransition(() => setColours({ code, shown: coloured(code, language) }));
    };
    show().catch(() => undefined); // without a network it stays plain
    return () => {
      isWanted = false;
    };
  }, [isOpen, code, language]);
  return colours?.code === code ? colours.shown : null;
}

function CodeBlock({ node }: { readonly node?: unknown }): ReactNode {
  const words = useWords();
  const code = (node as Node | undefined)?.children?.[0];
  const text = textOf(code).replace(/\n$/, "");
  const classes = code?.properties?.["className"];
  const language = Array.isArray(classes) ? String(classes[0] ?? "").replace("language-", "") : "";
  return (
    <figure className="code-block">
      <figcaption>
        <span>{language || words.message.code}</span>
        <CopyButton text={text} label={words.message.copyCode} />
      </figcaption>
      <pre tabIndex={0} dir="ltr">
        <code>{useColours(text, language) ?? text}</code>
      </pre>
    </figure>
  );
}

function textOf(node: Node | undefined): string {
  return node ? (node.value ?? (node.children ?? []).map(textOf).join("")) : "";
}

const COMPONENTS: Components = { a: Link, img: Image, table: Table, pre: CodeBlock };

const Block = memo(function Block({ text, isOpen }: { readonly text: string; readonly isOpen: boolean }): ReactNode {
  return (
    <IsOpen value={isOpen}>
      <Markdown remarkPlugins={PLUGINS} components={COMPONENTS}>
        {text}
      </Markdown>
    </IsOpen>
  );
});

/** `isGrowing`: more of the text is to come. */
export const Prose = memo(function Prose({ text, isGrowing }: { readonly text: string; readonly isGrowing: boolean }): ReactNode {
  // Parsing in parts pays for a text that grows; one that is whole from the first is parsed once.
  const [isInParts] = useState(isGrowing);
  const shown = isGrowing ? withoutHalfFence(text) : text;
  const blocks = isInParts ? blocksOf(shown) : [shown];
  return (
    <div className="prose" dir="auto">
      {blocks.map((block, index) => (
        <Block key={index} text={block} isOpen={isGrowing && index === blocks.length - 1} />
      ))}
    </div>
  );
});
