/** The box for the next message. What is typed stays in it: only what is sent touches the rest of the page. */

import { type ReactNode, useEffect, useLayoutEffect, useRef, useState } from "react";

import { isOpen, runningTurn } from "../protocol/transcript";
import { isRepeatable } from "../state/thread";
import { useWords } from "../i18n";
import { UploadList } from "./attachments";
import { useApp, useShown } from "./context";
import { Growing, IconButton, isPlainEnter } from "./parts";

const KEEP_MS = 300; // so long after the last key a draft is written down

/** `putBack`: a message that was taken back, to be changed and sent anew. */
export function Composer({ putBack }: { readonly putBack: { readonly text: string } | null }): ReactNode {
  const words = useWords();
  const app = useApp();
  const conversationId = useShown((state) => state.thread.conversationId);
  const phase = useShown((state) => state.thread.phase);
  const isRunning = useShown((state) => runningTurn(state.thread.transcript) !== undefined);
  const hasAgent = useShown((state) => state.agentId !== null);
  const draft = useDraft(conversationId);
  const { text, setText, take } = draft;
  const box = useRef<HTMLTextAreaElement>(null);

  useEffect(() => {
    // On a phone the keyboard would cover what was just opened.
    if (matchMedia("(hover: hover)").matches) box.current?.focus();
  }, [conversationId]);
  // What was pressed to send something, such as "Try again", is often gone then, and the focus with it.
  const sendCount = useShown((state) => state.thread.sendCount);
  useEffect(() => {
    if (sendCount > 0 && document.activeElement === document.body && matchMedia("(hover: hover)").matches) box.current?.focus();
  }, [sendCount]);
  useEffect(() => {
    if (!putBack) return;
    setText(putBack.text);
    box.current?.focus();
  }, [putBack, setText]);

  const uploads = useShown((state) => state.uploads);
  const own = uploads.filter((upload) => upload.conversationId === conversationId);
  const isUploading = own.some((upload) => upload.status === "uploading");
  const hasFiles = own.some((upload) => upload.status === "done");
  const hasSomething = text.trim() !== "" || hasFiles;
  const canAttach = useShown(() => app.taken.inputs.has("image") || app.taken.inputs.has("file"));
  const mayAttach = useShown((state) => state.agents.length === 0) || canAttach;
  const isDropped = useDrop(mayAttach, (files) => app.attach(files));

  const isReady = hasAgent && phase === "ready" && !isUploading;
  const isWanted = useRef(false);
  const send = (): void => {
    // Who is quicker than the page need not say it twice.
    isWanted.current = !isReady;
    if (!isReady) return;
    app.send(take().trim());
    box.current?.focus();
  };
  useEffect(() => {
    if (isReady && isWanted.current && own.every((upload) => upload.status === "done")) send();
  });
  const editLast = (): boolean => {
    const { transcript } = app.store.get().thread;
    const last = transcript.findLast(isRepeatable);
    if (!last || transcript.some(isOpen)) return false;
    app.parts.thread.edit(last.id);
    return true;
  };
  const onKeyDown = (event: React.KeyboardEvent): void => {
    if (isPlainEnter(event)) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && text === "" && editLast()) {
      event.preventDefault();
    }
  };

  return (
    <form
      className={`composer ${isDropped ? "dropping" : ""}`}
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <UploadList uploads={own} />
      {isDropped && <p className="drop">{words.attachments.drop}</p>}
      <Growing text={text}>
        <textarea
          id="message"
          ref={box}
          rows={1}
          value={text}
          dir="auto"
          enterKeyHint="send"
          aria-label={words.composer.label}
          aria-keyshortcuts="Enter"
          placeholder={words.composer.placeholder}
          onChange={(event) => {
            isWanted.current = false;
            setText(event.target.value);
          }}
          onKeyDown={onKeyDown}
          onPaste={(event) => {
            const { files, types } = event.clipboardData;
            // What is copied from a document is both: its text is meant.
            if (!mayAttach || files.length === 0 || types.includes("text/plain")) return;
            event.preventDefault();
            app.attach([...files]);
          }}
        />
      </Growing>
      <div className="composer-bar">
        {canAttach && <AttachButton />}
        <AgentChoice />
        <span className="hint">{words.composer.hint}</span>
        {isRunning && <IconButton icon="stop" className="stop" label={words.composer.stop} onClick={() => void app.stop()} />}
        {(!isRunning || hasSomething) && (
          <IconButton icon="send" className="send" label={words.composer.send} isDisabled={!hasSomething || isUploading} onClick={send} />
        )}
      </div>
    </form>
  );
}

function AttachButton(): ReactNode {
  const words = useWords();
  const app = useApp();
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <input
        ref={input}
        type="file"
        hidden
        multiple
        onChange={(event) => {
          app.attach([...(event.target.files ?? [])]);
          event.target.value = ""; // the same one may be chosen again
        }}
      />
      <IconButton icon="attach" className="attach" label={words.attachments.add} onClick={() => input.current?.click()} />
    </>
  );
}

/**
 * Takes files that are dropped anywhere on the page, from the moment when it is shown. Whether some are being held over
 * it. Those that are not taken are refused: the browser would leave the page to show them.
 */
function useDrop(isTaken: boolean, onFiles: (files: readonly File[]) => void): boolean {
  const [isHeld, setHeld] = useState(false);
  const latest = useRef(onFiles);
  latest.current = onFiles;
  useLayoutEffect(() => {
    const onDrag = (event: DragEvent): void => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      if (!isTaken) event.dataTransfer.dropEffect = "none";
      setHeld(isTaken && event.type === "dragover");
      if (isTaken && event.type === "drop") latest.current([...event.dataTransfer.files]);
    };
    const onLeave = (event: DragEvent): void => {
      if (event.relatedTarget === null) setHeld(false);
    };
    addEventListener("dragover", onDrag);
    addEventListener("drop", onDrag);
    addEventListener("dragleave", onLeave);
    return () => {
      removeEventListener("dragover", onDrag);
      removeEventListener("drop", onDrag);
      removeEventListener("dragleave", onLeave);
    };
  }, [isTaken]);
  return isHeld;
}

function AgentChoice(): ReactNode {
  const words = useWords();
  const app = useApp();
  const agents = useShown((state) => state.agents);
  const agentId = useShown((state) => state.agentId);
  if (agents.length < 2) return null;
  return (
    <select className="agent" aria-label={words.composer.agent} value={agentId ?? ""} onChange={(event) => app.chooseAgent(event.target.value)}>
      {agents.map((agent) => (
        <option key={agent.id} value={agent.id} title={agent.description}>
          {agent.id}
        </option>
      ))}
    </select>
  );
}

interface Draft {
  readonly text: string;
  readonly setText: (text: string) => void;
  /** Empties it. A second call in the same moment, as of a double Enter, gets nothing. */
  readonly take: () => string;
}

/** The draft of this conversation, written down as it is typed. */
function useDraft(conversationId: string | null): Draft {
  const app = useApp();
  const { kept } = app.parts;
  const [text, show] = useState(() => kept.draft(conversationId));
  const shown = useRef({ conversationId, text });
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const write = (): void => {
    clearTimeout(timer.current);
    kept.keepDraft(shown.current.conversationId, shown.current.text);
  };
  useEffect(() => {
    if (shown.current.conversationId === conversationId) return;
    const hasBegun = shown.current.conversationId === null && app.store.get().thread.sendCount > 0;
    if (hasBegun) {
      // The next message, typed while the first one was on its way, goes along.
      kept.keepDraft(null, "");
      shown.current = { conversationId, text: shown.current.text };
      return;
    }
    write();
    shown.current = { conversationId, text: kept.draft(conversationId) };
    show(shown.current.text);
  });
  useEffect(() => {
    addEventListener("pagehide", write);
    return () => {
      write();
      removeEventListener("pagehide", write);
    };
  }, []);
  const [setText] = useState(() => (now: string): void => {
    shown.current = { ...shown.current, text: now };
    show(now);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => kept.keepDraft(shown.current.conversationId, shown.current.text), KEEP_MS);
  });
  const take = (): string => {
    const taken = shown.current.text;
    setText("");
    write();
    return taken;
  };
  return { text, setText, take };
}
