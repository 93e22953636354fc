/** The page: conversations, the open one, and the tasks beside it; or the door. */

import { type ReactNode, useCallback, useEffect, useRef, useState } from "react";

import { useLanguage, useWords } from "../i18n";
import { useApp, useShown } from "./context";
import type { Format } from "./exporting";
import { Icon } from "./icons";
import { Later, type LaterName } from "./later";
import { Menu } from "./menu";
import { IconButton } from "./parts";
import { Sidebar } from "./sidebar";
import { Away, SignIn } from "./signin";
import { TasksPanel } from "./tasks";
import { ThreadView } from "./thread";

const NARROW = "(max-width: 47.99rem)";
const WIDE = "(min-width: 72rem)";

export function Page(): ReactNode {
  const session = useShown((state) => state.session);
  const userId = useShown((state) => state.userId);
  const sharedToken = useShown((state) => state.sharedToken);
  const [isSigningIn, setSigningIn] = useState(false);
  useEffect(() => {
    if (session === "signed in") setSigningIn(false);
  }, [session]);
  if (sharedToken) return <Later name="shared" onClose={nothing} />;
  if (session === "starting") return null;
  if (session === "signed in" || (session === "expired" && !isSigningIn))
    return <Desk key={userId} onSignIn={() => setSigningIn(true)} />;
  return session === "unreachable" ? <Away /> : <SignIn />;
}

function nothing(): void {}

function Desk({ onSignIn }: { readonly onSignIn: () => void }): ReactNode {
  const words = useWords();
  const [isListOpen, setListOpen] = useState(() => !matchMedia(NARROW).matches);
  const [areTasksOpen, setTasksOpen] = useState(() => matchMedia(WIDE).matches);
  const hasBox = useShown((state) => state.thread.phase !== "gone");
  const [dialog, setDialog] = useState<LaterName | null>(null);
  const help = useRef<HTMLDialogElement>(null);
  const isNarrow = useMedia(NARROW);
  const isCovered = isNarrow && (isListOpen || areTasksOpen);
  const uncover = useCallback((): void => {
    setListOpen(false);
    setTasksOpen(false);
  }, []);
  useUncovered(isCovered, uncover);
  const closeIfNarrow = useCallback(() => {
    if (matchMedia(NARROW).matches) setListOpen(false);
  }, []);
  useShortcuts(
    useCallback(() => setListOpen(true), []),
    useCallback(() => help.current?.showModal(), []),
  );
  return (
    <div className={`desk ${isListOpen ? "with-list" : ""} ${areTasksOpen ? "with-tasks" : ""}`}>
      {hasBox && (
        <a className="skip" href="#message" onClick={skip}>
          {words.skipToMessage}
        </a>
      )}
      {isListOpen && (
        <>
          <Drawer label={words.list.title} isModal={isCovered}>
            <Sidebar onChosen={closeIfNarrow} onSettings={() => setDialog("settings")} />
          </Drawer>
          <button type="button" className="backdrop" aria-label={words.list.hide} onClick={uncover} />
        </>
      )}
      <div className="middle" inert={isCovered}>
        <header className="top">
          <IconButton icon="menu" label={isListOpen ? words.list.hide : words.list.show} isExpanded={isListOpen} onClick={() => setListOpen(!isListOpen)} />
          <Title />
          <ThreadMenu onShare={() => setDialog("share")} />
          <IconButton icon="keyboard" className="wide-only" label={words.keys.open} onClick={() => help.current?.showModal()} />
          <IconButton icon="tasks" label={areTasksOpen ? words.tasks.hide : words.tasks.show} isExpanded={areTasksOpen} onClick={() => setTasksOpen(!areTasksOpen)} />
        </header>
        <Banner onSignIn={onSignIn} />
        <ThreadView />
      </div>
      {areTasksOpen && (
        <>
          <Drawer label={words.tasks.title} isModal={isCovered}>
            <TasksPanel onClose={() => setTasksOpen(false)} />
          </Drawer>
          <button type="button" className="backdrop" aria-label={words.tasks.hide} onClick={uncover} />
        </>
      )}
      <Notices />
      {dialog && <Later name={dialog} onClose={() => setDialog(null)} />}
      <Help dialog={help} />
    </div>
  );

  function skip(event: React.MouseEvent): void {
    event.preventDefault();
    document.getElementById("message")?.focus();
  }
}

/** A part of the page that lies over the rest where there is no room beside it; `isModal`: it does, now. */
export function Drawer({ label, isModal, children }: { readonly label: string; readonly isModal: boolean; readonly children: ReactNode }): ReactNode {
  const role = isModal ? ({ role: "dialog", "aria-modal": true, "aria-label": label } as const) : {};
  return (
    <div className="drawer" {...role}>
      {children}
    </div>
  );
}

/** Whether the screen is like that, now. */
function useMedia(query: string): boolean {
  const [isSo, setSo] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const media = matchMedia(query);
    const onChange = (): void => setSo(media.matches);
    onChange();
    media.addEventListener("change", onChange);
    return () => media.removeEventListener("change", onChange);
  }, [query]);
  return isSo;
}

/** On a small screen a drawer takes the focus from what it covers; Escape closes it, and the focus goes back. */
export function useUncovered(isCovered: boolean, uncover: () => void): void {
  useEffect(() => {
    if (!isCovered) return;
    const before = document.activeElement;
    document.querySelector<HTMLElement>(":is(.sidebar, .tasks) button")?.focus({ preventScroll: true });
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
      if (!(event.target instanceof Element && event.target.matches("#search, .rename"))) uncover();
    };
    addEventListener("keydown", onKey);
    return () => {
      removeEventListener("keydown", onKey);
      if (before instanceof HTMLElement && document.activeElement === document.body) before.focus({ preventScroll: true });
    };
  }, [isCovered, uncover]);
}

function Title(): ReactNode {
  const words = useWords();
  const id = useShown((state) => state.thread.conversationId);
  const title = useShown((state) => state.thread.title);
  const listed = useShown((state) => state.list.conversations.find((each) => each.id === id)?.title);
  const phase = useShown((state) => state.thread.phase);
  const isElsewhere = phase === "gone" || phase === "failed";
  const shown = id === null ? words.list.newConversation : listed || title || (isElsewhere ? words.product : words.list.untitled);
  useEffect(() => {
    document.title = id === null || shown === words.product ? words.product : `${shown} – ${words.product}`;
  }, [id, shown, words]);
  return (
    <h1 className="title" dir="auto">
      {shown}
    </h1>
  );
}

function ThreadMenu({ onShare }: { readonly onShare: () => void }): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const app = useApp();
  const id = useShown((state) => state.thread.conversationId);
  const phase = useShown((state) => state.thread.phase);
  if (id === null || phase !== "ready") return null;
  const save = (format: Format) => (): void => {
    void import("./exporting").then(({ exportConversation }) => exportConversation(app.api, id, format, language)).catch(() => app.notify("failed", ""));
  };
  return (
    <Menu
      label={words.menu.open}
      choices={[
        { icon: "share", label: words.menu.share, onChosen: onShare },
        { icon: "save", label: words.menu.exportMarkdown, onChosen: save("markdown") },
        { icon: "save", label: words.menu.exportJson, onChosen: save("json") },
      ]}
    />
  );
}

export function Banner({ onSignIn }: { readonly onSignIn: () => void }): ReactNode {
  const words = useWords();
  const isOnline = useShown((state) => state.isOnline);
  const isReconnecting = useShown((state) => state.isReconnecting);
  const isExpired = useShown((state) => state.session === "expired");
  if (isExpired) {
    return (
      <div className="banner alert" role="alert">
        {words.banner.expired}
        <button type="button" className="primary" onClick={onSignIn}>
          {words.banner.signIn}
        </button>
      </div>
    );
  }
  if (isOnline && !isReconnecting) return null;
  return (
    <p className="banner" role="status">
      {isOnline ? words.banner.reconnecting : words.banner.offline}
    </p>
  );
}

export function Notices(): ReactNode {
  const words = useWords();
  const app = useApp();
  const notices = useShown((state) => state.notices);
  return (
    <div className="notices" role="status" aria-live="polite">
      {notices.map((notice) => (
        <p key={notice.id}>
          {words.notices[notice.kind](notice.name || words.list.untitled)}
          {notice.undo && (
            <button
              type="button"
              className="link"
              onClick={() => {
                app.dismiss(notice.id);
                notice.undo?.();
              }}
            >
              {words.undo}
            </button>
          )}
          <IconButton icon="close" label={words.close} onClick={() => app.dismiss(notice.id)} />
        </p>
      ))}
    </div>
  );
}

function Help({ dialog }: { readonly dialog: React.RefObject<HTMLDialogElement | null> }): ReactNode {
  const words = useWords();
  const { keys } = words;
  const control = navigator.userAgent.includes("Mac") ? keys.names.command : keys.names.control;
  const rows: readonly (readonly [string, readonly string[]])[] = [
    [keys.send, [keys.names.enter]],
    [keys.newline, [keys.names.shift, keys.names.enter]],
    [keys.stop, [keys.names.escape]],
    [keys.editLast, [keys.names.up]],
    [keys.search, [control, "K"]],
    [keys.help, ["?"]],
  ];
  return (
    <dialog ref={dialog} className="help" aria-labelledby="help-title">
      <header>
        <h2 id="help-title">{keys.title}</h2>
        <button type="button" className="icon-button" aria-label={words.close} onClick={() => dialog.current?.close()}>
          <Icon name="close" />
        </button>
      </header>
      <dl>
        {rows.map(([what, combination]) => (
          <div key={what}>
            <dt>{what}</dt>
            <dd>
              {combination.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </dialog>
  );
}

function useShortcuts(openList: () => void, openHelp: () => void): void {
  const app = useApp();
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
      if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey) {
        event.preventDefault();
        openList();
        requestAnimationFrame(() => document.getElementById("search")?.focus());
      } else if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) {
        const isOverThread = document.querySelector(".middle[inert]") !== null;
        if (!isOverThread && !(event.target instanceof HTMLElement && event.target.id === "search")) void app.stop();
      } else if (event.key === "?" && !isTyping) {
        openHelp();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [app, openList, openHelp]);
}
