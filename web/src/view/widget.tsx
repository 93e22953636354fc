/** The widget: one conversation within another page, with the way to the others. */

import { type ReactNode, useCallback, useEffect, useState } from "react";

import { useWords } from "../i18n";
import { useApp, useShown } from "./context";
import { IconButton, Skeleton } from "./parts";
import { Banner, Drawer, Notices, useUncovered } from "./page";
import { Sidebar } from "./sidebar";
import { ThreadView } from "./thread";

interface WidgetProps {
  /** Null: the product's. */
  readonly title: string | null;
  /** Null: whichever is the first. */
  readonly agent: string | null;
  readonly onClose: () => void;
}

export function Widget({ title, agent, onClose }: WidgetProps): ReactNode {
  const words = useWords();
  const app = useApp();
  const session = useShown((state) => state.session);
  const userId = useShown((state) => state.userId);
  const [isListOpen, setListOpen] = useState(false);
  const hasDesk = session === "signed in" || session === "expired";
  const isCovered = hasDesk && isListOpen;
  useUncovered(isCovered, useCallback(() => setListOpen(false), []));
  useAgent(agent);
  useEscape(isListOpen ? () => setListOpen(false) : onClose);
  const heading = title ?? words.product;
  return (
    <div className="desk widget">
      {isCovered && (
        <>
          <Drawer label={words.list.title} isModal>
            <Sidebar onChosen={() => setListOpen(false)} onSettings={() => undefined} />
          </Drawer>
          <button type="button" className="backdrop" aria-label={words.list.hide} onClick={() => setListOpen(false)} />
        </>
      )}
      <div className="middle" inert={isCovered}>
        <header className="top">
          {hasDesk && <IconButton icon="menu" label={isListOpen ? words.list.hide : words.list.show} isExpanded={isListOpen} onClick={() => setListOpen(!isListOpen)} />}
          <h1 className="title" dir="auto" tabIndex={-1}>
            {heading}
          </h1>
          {hasDesk && (
            <IconButton
              icon="add"
              label={words.list.newConversation}
              onClick={() => {
                app.newConversation();
                document.getElementById("message")?.focus();
              }}
            />
          )}
          <IconButton icon="close" label={words.widget.close} onClick={onClose} />
        </header>
        {hasDesk && <Banner onSignIn={() => void app.enter()} />}
        {hasDesk ? <ThreadView key={userId} welcome={<Welcome />} /> : <Door />}
      </div>
      <Notices />
    </div>
  );
}

function Welcome(): ReactNode {
  const words = useWords();
  return (
    <section className="welcome">
      <h2>{words.widget.welcome}</h2>
      <p>{words.widget.lead}</p>
    </section>
  );
}

/** While it is not known who is there, or the host does not say. */
function Door(): ReactNode {
  const words = useWords();
  const app = useApp();
  const session = useShown((state) => state.session);
  const [isBusy, setBusy] = useState(false);
  if (session === "starting") {
    return (
      <main className="thread column">
        <Skeleton />
      </main>
    );
  }
  if (session === "unreachable") {
    return (
      <main className="thread column">
        <p role="status" className="note">
          {words.signIn.unreachable}
        </p>
      </main>
    );
  }
  const ask = async (): Promise<void> => {
    setBusy(true);
    await app.enter();
    setBusy(false);
  };
  return (
    <main className="thread column">
      <section className="elsewhere" role="alert">
        <h2>{words.widget.strangerTitle}</h2>
        <p>{words.widget.strangerText}</p>
        <button type="button" className="primary" disabled={isBusy} onClick={() => void ask()}>
          {words.tryAgain}
        </button>
      </section>
    </main>
  );
}

/** The host's choice of the agent counts, if there is such an agent. */
function useAgent(wanted: string | null): void {
  const app = useApp();
  const agents = useShown((state) => state.agents);
  const agentId = useShown((state) => state.agentId);
  useEffect(() => {
    if (wanted !== agentId && agents.some((each) => each.id === wanted)) app.chooseAgent(wanted ?? "");
  }, [app, wanted, agentId, agents]);
}

/** Escape leaves what is innermost: a menu, an edit, a search, the list, and last the widget. Answers go on. */
function useEscape(leave: () => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (event.target instanceof Element && event.target.closest(".editor, .rename, .menu-of[open], dialog")) return;
      leave();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [leave]);
}
