/** Calls of tools: what was asked, what came of it, and whether it may be done at all. */

import { memo, type ReactNode } from "react";

import type { ApprovalRequestItem, ToolCallItem } from "../protocol/wire";
import { durationOf, useLanguage, useWords } from "../i18n";
import { useApp } from "./context";
import { Icon } from "./icons";

/** `add_task` → `Add task`. */
export function inWords(name: string): string {
  const words = name.replace(/[_\-.]+/g, " ").replace(/([a-z\d])([A-Z])/g, "$1 $2").trim().toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** JSON on several lines; other text as it is. */
export function inLines(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The most telling value of the arguments, for a line that is closed. */
function gist(text: string): string {
  try {
    const values = Object.values(JSON.parse(text) as Record<string, unknown>);
    const first = values.find((value) => typeof value === "string" && value !== "");
    return typeof first === "string" ? first : "";
  } catch {
    return "";
  }
}

export const ToolCard = memo(function ToolCard({ call }: { readonly call: ToolCallItem }): ReactNode {
  const words = useWords();
  const state = call.status === "in_progress" ? "running" : call.status;
  return (
    <details className={`card tool tool-${state}`}>
      <summary>
        <Icon name="tool" />
        <span className="tool-name">{inWords(call.name)}</span>
        <span className="tool-gist" dir="auto">{gist(call.arguments)}</span>
        <span className="tool-state">{words.tool[state]}</span>
        {call.durationMs !== null && <Took ms={call.durationMs} />}
        <Icon name="chevronDown" />
      </summary>
      <dl>
        <Value term={words.tool.arguments} text={call.arguments} />
        {call.error !== null && <Value term={words.tool.error} text={call.error} />}
        {call.output !== null && <Value term={words.tool.result} text={call.output} />}
      </dl>
    </details>
  );
});

/** As it is written for the eye, and in whole words for who is read to. */
function Took({ ms }: { readonly ms: number }): ReactNode {
  const { shown, said } = durationOf(useLanguage(), ms);
  return (
    <span className="tool-took">
      <span aria-hidden="true">{shown}</span>
      <span className="unseen">{said}</span>
    </span>
  );
}

function Value({ term, text }: { readonly term: string; readonly text: string }): ReactNode {
  const words = useWords();
  return (
    <>
      <dt>{term}</dt>
      <dd>
        <pre tabIndex={0}>{text.trim() === "" ? words.tool.nothing : inLines(text)}</pre>
      </dd>
    </>
  );
}

interface ApprovalProps {
  readonly request: ApprovalRequestItem;
  /** Undefined: not answered yet. */
  readonly isApproved: boolean | undefined;
}

export const ApprovalCard = memo(function ApprovalCard({ request, isApproved }: ApprovalProps): ReactNode {
  const words = useWords();
  const app = useApp();
  const answer = (isAllowed: boolean) => () => app.answer(request.id, isAllowed);
  return (
    <section className="card approval" aria-label={words.tool.approvalTitle(inWords(request.name))}>
      <p className="approval-title">{words.tool.approvalTitle(inWords(request.name))}</p>
      <p className="approval-server">{words.tool.of(request.server)}</p>
      <pre tabIndex={0}>{inLines(request.arguments)}</pre>
      {isApproved === undefined ? (
        <p className="buttons">
          <button type="button" className="primary" onClick={answer(true)}>
            {words.tool.allow}
          </button>
          <button type="button" onClick={answer(false)}>
            {words.tool.refuse}
          </button>
        </p>
      ) : (
        <p className="approval-answer">{isApproved ? words.message.approved : words.message.refused}</p>
      )}
    </section>
  );
});
