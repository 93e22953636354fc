/** The open conversation: its turns, and the box to say something in. */

import { memo, type ReactNode, useCallback, useEffect, useMemo, useRef, useState } from "react";

import { approvals as approvalsOf, isOpen, openTurn, type Transcript, turnWith } from "../protocol/transcript";
import type { ThreadState } from "../state/model";
import { useWords } from "../i18n";
import { Composer } from "./composer";
import { useApp, useShown } from "./context";
import { type Group, grouped } from "./groups";
import { Icon } from "./icons";
import { Skeleton } from "./parts";
import { useScrolling } from "./scrolling";
import { Busy, TurnView, type TurnProps } from "./turn";

/** `welcome` is what an empty conversation shows. */
export function ThreadView({ welcome = <Welcome /> }: { readonly welcome?: ReactNode }): ReactNode {
  const words = useWords();
  const app = useApp();
  const thread = useShown((state) => state.thread);
  const { transcript, phase, sendCount } = thread;
  const [putBack, setPutBack] = useState<{ readonly text: string } | null>(null);
  const giveBack = useCallback((text: string) => setPutBack({ text }), []);
  const approvals = useApprovals(transcript);
  const groups = useGroups(transcript);
  const place = useRef(0);
  // A conversation that has just begun gets an id, and stays the same to its reader.
  const lastId = useRef(thread.conversationId);
  if (lastId.current !== thread.conversationId && !(lastId.current === null && sendCount > 0)) place.current += 1;
  lastId.current = thread.conversationId;
  const isEmpty = phase === "ready" && transcript.length === 0;
  const scrolling = useScrolling(`${place.current} ${phase} ${isEmpty}`, transcript[0]?.id ?? "", transcript.at(-1)?.id ?? "");
  const { toEnd, toRow, content } = scrolling;
  useEffect(() => {
    if (sendCount > 0) toEnd();
  }, [sendCount, toEnd]);
  const { found } = thread;
  const foundTurn = found ? turnWith(transcript, found) : undefined;
  useEffect(() => {
    const row = found && content.current?.querySelector<HTMLElement>("[data-found]");
    if (!row) return;
    toRow(row);
    row.focus({ preventScroll: true });
  }, [found, content, toRow]);
  const isBusy = transcript.some((turn) => isOpen(turn) || turn.status === "sending");

  return (
    <main className="thread" aria-label={thread.title || words.thread.label}>
      <div className="scroll" ref={scrolling.frame} tabIndex={0} role="region" aria-label={words.thread.label}>
        <div className="column" ref={scrolling.content}>
          {phase === "loading" && <Skeleton lines={6} />}
          {phase === "gone" && <Elsewhere title={words.thread.goneTitle} text={words.thread.goneText} action={words.thread.goBack} onAction={() => app.newConversation()} />}
          {phase === "failed" && (
            <Elsewhere title={words.thread.failedTitle} text={words.thread.failedText} action={words.tryAgain} onAction={() => void app.parts.thread.refresh()} />
          )}
          {isEmpty && welcome}
          {phase === "ready" && thread.hasEarlier && (
            <button type="button" className="earlier" disabled={thread.isLoadingEarlier} onClick={() => void app.parts.thread.loadEarlier()}>
              {thread.isLoadingEarlier ? words.loading : words.thread.loadEarlier}
            </button>
          )}
          <Busy value={isBusy}>
            {phase === "ready" &&
              groups.map((group) => (
                <GroupView
                  key={group.key}
                  group={group}
                  width={scrolling.width}
                  problems={thread.problems}
                  editing={thread.editing}
                  foundTurnId={foundTurn?.id ?? null}
                  foundItemId={found?.itemId ?? null}
                  approvals={approvals}
                  onDiscarded={giveBack}
                />
              ))}
          </Busy>
        </div>
      </div>
      <div className="dock">
        {!scrolling.isAtEnd && (
          <button type="button" className="to-end" onClick={toEnd} aria-label={scrolling.hasNews ? words.thread.toEndUnread : words.thread.toEnd} title={words.thread.toEnd}>
            <Icon name="down" />
            {scrolling.hasNews && <span className="dot" />}
          </button>
        )}
        {phase !== "gone" && <Composer putBack={putBack} />}
      </div>
      <Announcer />
    </main>
  );
}

interface GroupProps extends Pick<TurnProps, "approvals" | "onDiscarded" | "foundItemId"> {
  readonly group: Group;
  /** Of the room there is. */
  readonly width: number;
  readonly problems: ThreadState["problems"];
  readonly editing: string | null;
  readonly foundTurnId: string | null;
}

const GroupView = memo(function GroupView({ group, width, problems, editing, foundTurnId, foundItemId, ...others }: GroupProps): ReactNode {
  const isMeasured = useMeasured(width);
  return (
    <div className={isMeasured ? "turns measured" : "turns"}>
      {group.turns.map((turn) => (
        <TurnView
          key={turn.id}
          turn={turn}
          problem={problems.get(turn.id)}
          isEditing={editing === turn.id}
          foundItemId={turn.id === foundTurnId ? foundItemId : null}
          {...others}
        />
      ))}
    </div>
  );
});

/**
 * Whether the browser has laid the group out at this width and remembers its height. From then on it may leave the group
 * out while it is out of sight: what is in sight stays where it is, as nothing changes its height.
 */
function useMeasured(width: number): boolean {
  const [measuredWidth, setMeasuredWidth] = useState<number | null>(null);
  useEffect(() => {
    let frame = requestAnimationFrame(() => {
      frame = requestAnimationFrame(() => setMeasuredWidth(width)); // behind the frame that has laid it out
    });
    return () => cancelAnimationFrame(frame);
  }, [width]);
  return measuredWidth === width;
}

function useGroups(transcript: Transcript): readonly Group[] {
  const kept = useRef<readonly Group[]>([]);
  return useMemo(() => {
    kept.current = grouped(kept.current, transcript);
    return kept.current;
  }, [transcript]);
}

/** The same map as long as it says the same, so that turns are not rendered again for it. */
function useApprovals(transcript: Transcript): ReadonlyMap<string, boolean> {
  const kept = useRef<ReadonlyMap<string, boolean>>(new Map());
  return useMemo(() => {
    const now = approvalsOf(transcript);
    if (now.size !== kept.current.size) kept.current = now;
    return kept.current;
  }, [transcript]);
}

function Elsewhere({ title, text, action, onAction }: Readonly<Record<"title" | "text" | "action", string>> & { readonly onAction: () => void }): ReactNode {
  return (
    <section className="elsewhere">
      <h2>{title}</h2>
      <p>{text}</p>
      <button type="button" className="primary" onClick={onAction}>
        {action}
      </button>
    </section>
  );
}

/** What people are called, and not what a database calls them. */
const NAME = /^\p{L}[\p{L}'’. -]{0,29}$/u;

function Welcome(): ReactNode {
  const words = useWords();
  const app = useApp();
  const userId = useShown((state) => state.userId);
  return (
    <section className="welcome">
      <h2>{words.welcome.title(NAME.test(userId) ? userId : "")}</h2>
      <p>{words.welcome.lead}</p>
      <ul>
        {words.welcome.starters.map((starter) => (
          <li key={starter}>
            <button type="button" onClick={() => app.send(starter)}>
              {starter}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Tells those who do not see it how an answer goes: that it begins, and how it ended. */
function Announcer(): ReactNode {
  const words = useWords();
  const running = useShown((state) => openTurn(state.thread.transcript)?.id ?? null);
  const thread = useShown((state) => state.thread);
  const followed = useRef<string | null>(null);
  const [said, say] = useState<keyof typeof words.status | null>(null);
  useEffect(() => {
    if (running === followed.current) return;
    const ended = thread.transcript.find((turn) => turn.id === followed.current);
    followed.current = running;
    if (running !== null) say("answering");
    else if (!ended) say(null);
    else if (ended.status === "cancelled") say("stopped");
    else say(ended.status === "failed" ? "failed" : "complete");
  }, [running, thread]);
  return (
    <p className="unseen" role="status" aria-live="polite">
      {said && words.status[said]}
    </p>
  );
}
