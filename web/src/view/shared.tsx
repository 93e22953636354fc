/** A shared conversation, for whoever has its link: to read, and to go on in a copy of one's own. */

import { type ReactNode, useEffect, useState } from "react";

import mark from "../icon.svg";
import type { SharedMessage, SharedPage as Shared, SharedToolCall } from "../protocol/wire";
import { problemOf } from "../state/problems";
import { dateOf, useLanguage, useWords } from "../i18n";
import { useApp, useShown } from "./context";
import { Icon } from "./icons";
import type { LaterProps } from "./later";
import { Prose } from "./markdown";
import { Skeleton } from "./parts";
import { inWords } from "./tools";

const PAGES_MAX = 100;

type Loaded = Shared | "gone" | "failed" | null;

export function SharedPage({ onClose }: LaterProps): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const app = useApp();
  const token = useShown((state) => state.sharedToken) ?? "";
  const [tries, setTries] = useState(0);
  const [isCopyFailed, setCopyFailed] = useState(false);
  const shared = useShared(token, tries);
  const title = typeof shared === "object" && shared ? shared.title : "";
  useEffect(() => {
    document.title = title ? `${title} – ${words.product}` : words.product;
  }, [title, words]);
  const leave = (): void => {
    location.hash = "";
    onClose();
  };
  if (shared === "gone") return <Nowhere title={words.share.goneTitle} text={words.share.goneText} action={words.share.home} onAction={leave} />;
  if (shared === "failed") {
    return <Nowhere title={words.share.failedTitle} text={words.share.failedText} action={words.tryAgain} onAction={() => setTries(tries + 1)} />;
  }
  return (
    <main className="shared">
      <header>
        <a href="#" onClick={leave} aria-label={words.share.home}>
          <img className="mark-of-ours" src={mark} alt="" />
        </a>
        <div>
          <h1 dir="auto">{title || words.list.untitled}</h1>
          <p className="note">
            {words.share.readOnly} {shared && dateOf(language, shared.sharedAt)}
          </p>
        </div>
      </header>
      {shared === null && <Skeleton lines={6} />}
      <div className="column">{shared?.items.map((item) => (item.type === "message" ? <Message key={item.position} message={item} /> : <Call key={item.position} call={item} />))}</div>
      <footer>
        <p className="note">{words.share.continueHint}</p>
        {isCopyFailed && (
          <p role="alert" className="problem">
            {words.share.failed}
          </p>
        )}
        <button type="button" className="primary" onClick={() => void app.copyShared(token).catch(() => setCopyFailed(true))}>
          {words.share.continueIt}
        </button>
      </footer>
    </main>
  );
}

/** All of it, page by page. */
function useShared(token: string, tries: number): Loaded {
  const app = useApp();
  const [shared, setShared] = useState<Loaded>(null);
  useEffect(() => {
    let isWanted = true;
    const load = async (): Promise<Shared> => {
      let page = await app.api.shared(token, 0);
      for (let pages = 1; page.hasMore && pages < PAGES_MAX; pages += 1) {
        const next = await app.api.shared(token, page.items.at(-1)?.position ?? 0);
        page = { ...next, items: [...page.items, ...next.items] };
      }
      return page;
    };
    setShared(null);
    load().then(
      (all) => {
        if (isWanted) setShared(all);
      },
      (error: unknown) => {
        const { kind } = problemOf(error);
        if (isWanted) setShared(kind === "gone" || kind === "refused" ? "gone" : "failed");
      },
    );
    return () => {
      isWanted = false;
    };
  }, [app, token, tries]);
  return shared;
}

function Message({ message }: { readonly message: SharedMessage }): ReactNode {
  const words = useWords();
  const isUsers = message.role === "user";
  return (
    <article className={`message ${message.role}`} aria-label={isUsers ? words.message.you : words.message.assistant}>
      {isUsers ? (
        <div className="bubble" dir="auto">
          {message.omittedFiles > 0 && <p className="attachment">{words.share.omitted(message.omittedFiles)}</p>}
          {message.text}
        </div>
      ) : (
        <Prose text={message.text} isGrowing={false} />
      )}
    </article>
  );
}

function Call({ call }: { readonly call: SharedToolCall }): ReactNode {
  const words = useWords();
  const state = call.status === "in_progress" ? "running" : call.status;
  return (
    <p className={`card shared-call tool-${state}`}>
      <Icon name="tool" />
      <span className="tool-name">{inWords(call.name)}</span>
      <span className="tool-state">{words.tool[state]}</span>
    </p>
  );
}

function Nowhere({ title, text, action, onAction }: Readonly<Record<"title" | "text" | "action", string>> & { readonly onAction: () => void }): ReactNode {
  return (
    <main className="door">
      <section className="elsewhere">
        <h1>{title}</h1>
        <p>{text}</p>
        <button type="button" className="primary" onClick={onAction}>
          {action}
        </button>
      </section>
    </main>
  );
}
