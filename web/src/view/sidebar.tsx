/** The conversations: search them, open, rename, archive and delete them. */

import { memo, type ReactNode, useEffect, useRef, useState } from "react";

import type { Conversation, Match } from "../protocol/wire";
import { addressOf } from "../state/app";
import { ageOf, useLanguage, useWords } from "../i18n";
import { useApp, useShown } from "./context";
import { Icon } from "./icons";
import { Menu } from "./menu";
import { IconButton, Skeleton } from "./parts";


export function Sidebar({ onChosen, onSettings }: { readonly onChosen: () => void; readonly onSettings: () => void }): ReactNode {
  const words = useWords();
  const app = useApp();
  const list = useShown((state) => state.list);
  const userId = useShown((state) => state.userId);
  const openId = useShown((state) => state.thread.conversationId);
  return (
    <nav className="sidebar" aria-label={words.list.title}>
      <header>
        <button
          type="button"
          className="new"
          aria-current={openId === null ? "page" : undefined}
          onClick={() => {
            app.newConversation();
            onChosen();
          }}
        >
          <Icon name="add" />
          {words.list.newConversation}
        </button>
        <div className="search">
          <Icon name="search" />
          <input
            id="search"
            type="search"
            value={list.search}
            maxLength={200}
            placeholder={words.list.search}
            aria-label={words.list.search}
            aria-keyshortcuts="Control+K Meta+K"
            onChange={(event) => app.parts.conversations.search(event.target.value)}
            onKeyDown={(event) => {
              if (event.key === "Escape") app.parts.conversations.search("");
            }}
          />
        </div>
      </header>
      <List onChosen={onChosen} />
      <footer>
        <button type="button" className="link" onClick={() => app.parts.conversations.showArchive(!list.isArchived)}>
          <Icon name={list.isArchived ? "chevronLeft" : "archive"} />
          {list.isArchived ? words.list.backToList : words.list.archive}
        </button>
        <span className="who" title={words.list.signedInAs(userId)}>
          {userId}
        </span>
        <IconButton icon="settings" label={words.settings.open} onClick={onSettings} />
        <IconButton icon="leave" label={words.list.signOut} onClick={() => void app.signOut()} />
      </footer>
    </nav>
  );
}

function List({ onChosen }: { readonly onChosen: () => void }): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const app = useApp();
  const { phase, conversations, hasMore, search, isArchived } = useShown((state) => state.list);
  const openId = useShown((state) => state.thread.conversationId);
  const end = useEndInSight(() => void app.parts.conversations.loadMore());
  const isSearch = search.trim() !== "";

  if (phase === "loading") return <div className="list"><Skeleton lines={5} /></div>;
  if (phase === "failed") {
    return (
      <div className="list empty" role="alert">
        <p>{words.list.failed}</p>
        <button type="button" onClick={() => void app.parts.conversations.reload()}>
          {words.tryAgain}
        </button>
      </div>
    );
  }
  let heading = "";
  return (
    <div className="list">
      <p className="unseen" role="status">
        {isSearch ? words.list.hits(conversations.length) : ""}
      </p>
      {isArchived && (
        <p className="archive-title">
          <Icon name="archive" />
          {words.list.archive}
        </p>
      )}
      {conversations.length === 0 && <p className="empty">{isSearch ? words.list.noHits(search.trim()) : isArchived ? words.list.emptyArchive : words.list.empty}</p>}
      <ul>
        {conversations.map((conversation) => {
          const age = isSearch ? "" : ageOf(language, conversation.updatedAt);
          const isNewGroup = age !== heading;
          heading = age;
          return (
            <li key={conversation.id}>
              {isNewGroup && <h2>{age}</h2>}
              <Row conversation={conversation} isOpen={conversation.id === openId} onChosen={onChosen} />
            </li>
          );
        })}
      </ul>
      {hasMore && <div key={conversations.length} ref={end} className="more-below" />}
    </div>
  );
}

const LEAD_CHARS = 24;

/** The snippet from shortly before its first match on, so that the match is among what there is room for. */
function closer(snippet: Match["snippet"]): Match["snippet"] {
  const [first, ...rest] = snippet;
  if (!first || first.isMatch || first.text.length <= LEAD_CHARS) return snippet;
  return [{ ...first, text: `…${first.text.slice(-LEAD_CHARS).replace(/^\S*\s/, "")}` }, ...rest];
}

interface RowProps {
  readonly conversation: Conversation;
  readonly isOpen: boolean;
  readonly onChosen: () => void;
}

const Row = memo(function Row({ conversation, isOpen, onChosen }: RowProps): ReactNode {
  const words = useWords();
  const [isRenaming, setRenaming] = useState(false);
  const title = conversation.title || words.list.untitled;
  const { match } = conversation;
  if (isRenaming) return <Rename conversation={conversation} onEnd={() => setRenaming(false)} />;
  return (
    <div className="row">
      <a href={addressOf(conversation.id, match?.itemId, match?.responseId)} aria-current={isOpen ? "page" : undefined} onClick={onChosen}>
        <span className="row-title" dir="auto">
          {title}
        </span>
        {match && (
          <span className="row-snippet" dir="auto">
            {closer(match.snippet).map(({ text, isMatch }, index) => (isMatch ? <mark key={index}>{text}</mark> : text))}
          </span>
        )}
        {conversation.runningResponseId ? (
          <span className="mark running" role="img" aria-label={words.list.running} title={words.list.running} />
        ) : (
          conversation.isUnread && <span className="mark unread" role="img" aria-label={words.list.unread} title={words.list.unread} />
        )}
      </a>
      <RowMenu conversation={conversation} title={title} onRename={() => setRenaming(true)} />
    </div>
  );
});

function RowMenu({ conversation, title, onRename }: { readonly conversation: Conversation; readonly title: string; readonly onRename: () => void }): ReactNode {
  const words = useWords();
  const app = useApp();
  return (
    <Menu
      className="row-menu"
      label={words.list.moreFor(title)}
      choices={[
        { icon: "edit", label: words.list.rename, onChosen: onRename },
        {
          icon: "archive",
          label: conversation.isArchived ? words.list.unarchiveIt : words.list.archiveIt,
          onChosen: () => void app.archive(conversation, !conversation.isArchived),
        },
        { icon: "trash", label: words.list.remove, onChosen: () => void app.delete(conversation), isDangerous: true },
      ]}
    />
  );
}

function Rename({ conversation, onEnd }: { readonly conversation: Conversation; readonly onEnd: () => void }): ReactNode {
  const words = useWords();
  const app = useApp();
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => box.current?.select(), []);
  const save = (): void => {
    const title = box.current?.value.trim() ?? "";
    if (title !== "" && title !== conversation.title) void app.rename(conversation, title);
    onEnd();
  };
  return (
    <input
      ref={box}
      className="rename"
      defaultValue={conversation.title}
      maxLength={200}
      aria-label={words.list.renameLabel}
      autoFocus
      onBlur={save}
      onKeyDown={(event) => {
        if (event.key === "Escape") onEnd();
        if (event.key === "Enter" && !event.nativeEvent.isComposing) save();
      }}
    />
  );
}

/** For the element at the end of a list: calls `more` when it comes into sight. */
function useEndInSight(more: () => void): (element: HTMLDivElement | null) => void {
  const latest = useRef(more);
  latest.current = more;
  const observer = useRef<IntersectionObserver | null>(null);
  useEffect(() => () => observer.current?.disconnect(), []);
  const [attach] = useState(() => (element: HTMLDivElement | null): void => {
    observer.current?.disconnect();
    if (!element) return;
    observer.current = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) latest.current();
    }, { rootMargin: "200px" });
    observer.current.observe(element);
  });
  return attach;
}
