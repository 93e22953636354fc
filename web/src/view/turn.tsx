/** A turn: what was said, and what came of it. */

import { createContext, memo, type ReactNode, useContext, useEffect, useRef, useState } from "react";

import { answeredIn, isOpen, saidIn, type Turn } from "../protocol/transcript";
import type { Item, MessageItem, ReasoningItem } from "../protocol/wire";
import type { Problem } from "../state/model";
import { isRepeatable } from "../state/thread";
import { timeOf, useLanguage, useWords } from "../i18n";
import { AttachmentList } from "./attachments";
import { useApp } from "./context";
import { Reason, Thumbs } from "./feedback";
import { Icon } from "./icons";
import { Prose } from "./markdown";
import { CopyButton, Growing, IconButton, isPlainEnter } from "./parts";
import { ApprovalCard, ToolCard } from "./tools";

export interface TurnProps {
  readonly turn: Turn;
  readonly problem: Problem | undefined;
  readonly isEditing: boolean;
  /** Answers to requests for approval, by the request's id. */
  readonly approvals: ReadonlyMap<string, boolean>;
  /** The message of this turn that a search led to. */
  readonly foundItemId: string | null;
  readonly onDiscarded: (text: string) => void;
}

/** Whether something is being answered, so that branches stay as they are. Told to the few that it concerns. */
export const Busy = createContext(false);

function WhenIdle({ children }: { readonly children: ReactNode }): ReactNode {
  return useContext(Busy) ? null : children;
}

export const TurnView = memo(function TurnView(props: TurnProps): ReactNode {
  const { turn, isEditing } = props;
  return (
    <div className="turn" data-turn={turn.id} data-status={turn.status}>
      {isEditing ? <Editor turn={turn} /> : turn.input.map((item, index) => <InputItem key={index} item={item} {...props} />)}
      <Answer {...props} />
    </div>
  );
});

function InputItem({ item, ...props }: TurnProps & { readonly item: Item }): ReactNode {
  if (item.type === "message" && item.role === "user") return <UserMessage message={item} {...props} />;
  if (item.type === "message") return <GivenMessage message={item} foundItemId={props.foundItemId} />;
  if (item.type === "tool_call") return <ToolCard call={item} />;
  return null;
}

/** What a client put into the conversation in the name of somebody else than the user. */
function GivenMessage({ message, foundItemId }: { readonly message: MessageItem } & Pick<TurnProps, "foundItemId">): ReactNode {
  const words = useWords();
  return (
    <article
      className="message assistant"
      aria-label={message.role === "assistant" ? words.message.assistant : words.message.system}
      {...foundAs(foundItemId === message.id)}
    >
      <Prose text={message.text} isGrowing={false} />
      <footer>
        <span className="actions">
          <CopyButton text={message.text} label={words.message.copy} />
        </span>
      </footer>
    </article>
  );
}

function UserMessage({ message, turn, problem, foundItemId, onDiscarded }: TurnProps & { readonly message: MessageItem }): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const app = useApp();
  return (
    <article className="message user" aria-label={words.message.you} {...foundAs(foundItemId === message.id)}>
      <AttachmentList attachments={message.attachments} />
      {message.text !== "" && (
        <div className="bubble" dir="auto">
          {message.text}
        </div>
      )}
      <footer>
        <span className="actions">
          {turn.responseId && <time dateTime={new Date(turn.createdAt * 1000).toISOString()}>{timeOf(language, turn.createdAt)}</time>}
          <CopyButton text={message.text} label={words.message.copy} />
          {isRepeatable(turn) && (
            <WhenIdle>
              <IconButton icon="edit" label={words.message.edit} onClick={() => app.parts.thread.edit(turn.id)} />
            </WhenIdle>
          )}
        </span>
        {turn.siblingIds.length > 1 && turn.responseId && <Versions turn={turn} />}
        {turn.status === "sending" && <span className="note">{words.message.sending}</span>}
        {turn.status === "queued" && (
          <>
            <span className="note">{words.message.queued}</span>
            <button type="button" className="link" onClick={() => void app.stop(turn.id)}>
              {words.message.cancelQueued}
            </button>
          </>
        )}
      </footer>
      {turn.status === "unsent" && problem && (
        <div className="problem" role="alert">
          <p>
            <strong>{words.message.notSent}.</strong> {words.problems[problem.kind]} {problem.kind === "refused" || problem.kind === "limited" ? problem.message : ""}
            {problem.retryAt !== null && ` ${words.problems.againAt(timeOf(language, problem.retryAt / 1000))}`}
          </p>
          {problem.requestId && problem.kind !== "limited" && problem.kind !== "expired" && <p className="reference">{words.message.reference(problem.requestId)}</p>}
          <p className="buttons">
            {problem.kind !== "expired" && (
              <button type="button" onClick={() => app.parts.thread.retry(turn.id)}>
                {words.tryAgain}
              </button>
            )}
            <button type="button" className="link" onClick={() => onDiscarded(app.parts.thread.discard(turn.id))}>
              {words.message.discard}
            </button>
          </p>
        </div>
      )}
    </article>
  );
}

function Versions({ turn }: { readonly turn: Turn }): ReactNode {
  const isBusy = useContext(Busy);
  const words = useWords();
  const app = useApp();
  const place = turn.siblingIds.indexOf(turn.responseId ?? "");
  const before = turn.siblingIds[place - 1];
  const after = turn.siblingIds[place + 1];
  const choose = (id: string | undefined) => () => void (id && app.choose(id));
  return (
    <span className="versions" role="group" aria-label={words.message.versions}>
      <IconButton icon="chevronLeft" label={words.message.previousVersion} isDisabled={isBusy || !before} onClick={choose(before)} />
      <span aria-label={words.message.version(place + 1, turn.siblingIds.length)} role="img">
        {place + 1}/{turn.siblingIds.length}
      </span>
      <IconButton icon="chevronRight" label={words.message.nextVersion} isDisabled={isBusy || !after} onClick={choose(after)} />
    </span>
  );
}

function Editor({ turn }: { readonly turn: Turn }): ReactNode {
  const words = useWords();
  const app = useApp();
  const [text, setText] = useState(() => saidIn(turn));
  const box = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    box.current?.focus();
    box.current?.setSelectionRange(box.current.value.length, box.current.value.length);
    return () => document.querySelector<HTMLTextAreaElement>("#message")?.focus();
  }, []);
  const hasFiles = turn.input.some((item) => item.type === "message" && item.attachments.length > 0);
  const leave = (): void => app.parts.thread.edit(null);
  const save = (): void => {
    if (text.trim() || hasFiles) app.sendInstead(turn.id, text.trim());
  };
  return (
    <form
      className="editor"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <Growing text={text}>
        <textarea
          ref={box}
          rows={1}
          value={text}
          dir="auto"
          aria-label={words.message.editLabel}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === "Escape") {
              event.stopPropagation();
              leave();
            } else if (isPlainEnter(event)) {
              event.preventDefault();
              save();
            }
          }}
        />
      </Growing>
      <p className="buttons">
        <button type="submit" className="primary" disabled={!text.trim() && !hasFiles}>
          {words.message.saveEdit}
        </button>
        <button type="button" onClick={leave}>
          {words.cancel}
        </button>
      </p>
    </form>
  );
}

/** What marks the message that a search led to. */
function foundAs(isFound: boolean): { readonly "data-found"?: true; readonly tabIndex?: -1 } {
  return isFound ? { "data-found": true, tabIndex: -1 } : {};
}

function Answer({ turn, approvals, foundItemId }: TurnProps): ReactNode {
  const words = useWords();
  const app = useApp();
  const [isAsking, setAsking] = useState(false);
  const isGrowing = isOpen(turn);
  const isStopped = turn.status === "cancelled";
  const isSilent = turn.output.length === 0 && !isStopped && turn.status !== "failed" && turn.status !== "incomplete";
  if (isSilent && turn.status !== "in_progress") return null;
  const last = turn.output.at(-1);
  const isThinking = turn.status === "in_progress" && (!last || isFinished(last));
  const text = answeredIn(turn);
  // Of a message that was sent here, the id is not known: then the answer to it will do.
  const isFound = foundItemId !== null && turn.input.every((item) => item.id !== foundItemId);
  return (
    <article className="message assistant" aria-label={words.message.assistant} aria-busy={isGrowing} {...foundAs(isFound)}>
      {turn.output.map((item) => (
        <ShownItem key={item.id} item={item} isGrowing={isGrowing && item === last} approvals={approvals} />
      ))}
      {isThinking && <p className="thinking">{words.message.thinking}</p>}
      {isStopped && <p className="note ending">{words.message.stopped}</p>}
      {turn.status === "incomplete" && (
        <p className="note ending">{turn.incompleteReason === "content_filter" ? words.message.filtered : words.message.cutShort}</p>
      )}
      {turn.status === "failed" && <Failed turn={turn} />}
      {!isGrowing && (text !== "" || isStopped) && (
        <footer>
          <span className="actions">
            {text !== "" && <CopyButton text={text} label={words.message.copy} />}
            {text !== "" && turn.responseId && <Thumbs responseId={turn.responseId} feedback={turn.feedback} onAsk={setAsking} />}
            {isRepeatable(turn) && (
              <WhenIdle>
                <IconButton icon="again" label={words.message.regenerate} onClick={() => app.sendInstead(turn.id, saidIn(turn))} />
              </WhenIdle>
            )}
          </span>
        </footer>
      )}
      {isAsking && turn.responseId && turn.feedback && <Reason responseId={turn.responseId} feedback={turn.feedback} onEnd={() => setAsking(false)} />}
    </article>
  );
}

/** Whether something else is to be expected behind it. */
function isFinished(item: Item): boolean {
  return item.type === "approval_request" || item.type === "approval_answer" || item.status !== "in_progress";
}

function Failed({ turn }: { readonly turn: Turn }): ReactNode {
  const words = useWords();
  const app = useApp();
  return (
    <div className="problem" role="alert">
      <p>
        <strong>{words.message.failed}</strong> {turn.error?.message} {words.message.failedAdvice}
      </p>
      {turn.responseId && <p className="reference">{words.message.reference(turn.responseId)}</p>}
      {isRepeatable(turn) && (
        <WhenIdle>
          <p className="buttons">
            <button type="button" onClick={() => app.sendInstead(turn.id, saidIn(turn))}>
              {words.tryAgain}
            </button>
          </p>
        </WhenIdle>
      )}
    </div>
  );
}

interface ShownItemProps {
  readonly item: Item;
  readonly isGrowing: boolean;
  readonly approvals: ReadonlyMap<string, boolean>;
}

const ShownItem = memo(function ShownItem({ item, isGrowing, approvals }: ShownItemProps): ReactNode {
  switch (item.type) {
    case "message":
      return item.text === "" ? null : <Prose text={item.text} isGrowing={isGrowing} />;
    case "reasoning":
      return <Reasoning item={item} isGrowing={isGrowing} />;
    case "tool_call":
      return <ToolCard call={item} />;
    case "approval_request":
      return <ApprovalCard request={item} isApproved={approvals.get(item.id)} />;
    case "approval_answer":
      return null;
  }
});

function Reasoning({ item, isGrowing }: { readonly item: ReasoningItem; readonly isGrowing: boolean }): ReactNode {
  const words = useWords();
  if (item.text === "") return null;
  return (
    <details className="reasoning">
      <summary>
        <Icon name="chevronRight" />
        {isGrowing ? words.message.reasoningNow : words.message.reasoning}
      </summary>
      <Prose text={item.text} isGrowing={isGrowing} />
    </details>
  );
}
