/** The page's parts, put together: who is signed in, what is open, what is told by the network and by the browser. */

import { openTurn } from "../protocol/transcript";
import type { Conversation, Feedback, Touched } from "../protocol/wire";
import { Api } from "../transport/api";
import { Client } from "../transport/client";
import type { SignIn } from "../transport/session";
import type { StreamState } from "../transport/stream";
import { Conversations } from "./conversations";
import { Feed } from "./feed";
import { Files } from "./files";
import { Kept } from "./kept";
import { type Notice, newStore, NEW_THREAD } from "./model";
import { Outbox } from "./outbox";
import { problemOf } from "./problems";
import { Tasks } from "./tasks";
import { Thread } from "./thread";
import { type Taken, Uploads } from "./uploads";

const HIDDEN_MS = 15_000; // then a tab gives its streams back: a browser has six connections for all of them
const RECONNECTING_MS = 2_000; // a loss shorter than this is not worth a word
const NOTICE_MS = 8_000;
const TOUCH_MS = 60; // touches of one conversation come in bursts
const TAKES_NOTHING: Taken = { inputs: new Set(), fileBytesMax: 0 };
const AGAIN_MS = 3_000;
const FEED_MS = 1_500; // for so long the first reading waits for the feed, which would ask for a second one
const ADDRESS = /^#\/(conv_[0-9a-f]+)(?:\/(msg_[0-9a-f]+)(?:\/(resp_[0-9a-f]+))?)?$/;
const SHARED_ADDRESS = /^#\/shared\/([\w-]+)$/;

/** The address of a conversation, and of a message in it. */
export function addressOf(conversationId: string, itemId?: string, responseId?: string | null): string {
  return `#/${[conversationId, itemId, responseId].filter(Boolean).join("/")}`;
}

/** Show what is at `address`. Within a frame that is no step to go back by: the way back is the host page's. */
export function goTo(address: string): void {
  if (window === parent) location.hash = address;
  else location.replace(address);
}

/** What exists for a user who is signed in. */
interface Signed {
  readonly kept: Kept;
  readonly outbox: Outbox;
  readonly conversations: Conversations;
  readonly thread: Thread;
  readonly tasks: Tasks;
  readonly uploads: Uploads;
  readonly files: Files;
  readonly feed: Feed;
}

export class App {
  readonly store = newStore();
  readonly api: Api;
  private signed: Signed | null = null;
  private readonly lost = new Set<string>();
  private readonly touches = new Map<string, ReturnType<typeof setTimeout>>();
  private lostTimer: ReturnType<typeof setTimeout> | undefined;
  private hiddenTimer: ReturnType<typeof setTimeout> | undefined;
  private noticeId = 0;
  private isShown = true;
  private entering: ReturnType<typeof setTimeout> | undefined;
  private firstReading: ReturnType<typeof setTimeout> | undefined;
  private readonly early: [conversationId: string | null, files: readonly File[]][] = [];
  /** A shared conversation that is to be copied as soon as somebody is signed in. */
  private tokenToCopy: string | null = null;

  constructor(private readonly session: SignIn) {
    this.api = new Api(new Client(session, () => this.expired()));
  }

  /** Begin. Called once. */
  start(): void {
    this.readSharedAddress();
    addEventListener("hashchange", () => {
      this.readSharedAddress();
      this.openAddress();
    });
    addEventListener("online", () => this.networkChanged(true));
    addEventListener("offline", () => this.networkChanged(false));
    document.addEventListener("visibilitychange", () => this.visibilityChanged());
    void this.enter();
  }

  /** Whether the widget is open. While it is not, what comes counts as unread. */
  show(isShown: boolean): void {
    if (isShown === this.isShown) return;
    this.isShown = isShown;
    this.visibilityChanged();
  }

  /** Whoever the gateway knows comes in. */
  async enter(): Promise<void> {
    clearTimeout(this.entering);
    try {
      const door = await this.session.open();
      this.store.set({ isDevLoginOffered: door.isDevLoginOffered });
      if (door.identity) this.signedIn(door.identity.userId);
      else this.store.set({ session: "signed out" });
    } catch {
      if (this.store.get().session !== "signed in") this.store.set({ session: "unreachable" });
      clearTimeout(this.entering);
      this.entering = setTimeout(() => void this.enter(), AGAIN_MS);
    }
  }

  /** Whether it went well. Throws where the gateway cannot be reached. */
  async signIn(how: { readonly user: string } | { readonly token: string }): Promise<boolean> {
    const identity = "user" in how ? await this.session.signInLocally(how.user) : this.session.signInWith(how.token);
    if (identity) this.signedIn(identity.userId);
    return identity !== null;
  }

  async signOut(): Promise<void> {
    await this.session.signOut().catch(() => undefined);
    location.replace("/");
  }

  /** The parts of the user who is signed in. The view of a signed-in user alone asks for them. */
  get parts(): Signed {
    if (!this.signed) throw new Error("nobody is signed in");
    return this.signed;
  }

  newConversation(): void {
    goTo("#");
  }

  /** Say this, with the files that were uploaded for it. */
  send(text: string): void {
    const attachments = this.parts.uploads.take(this.store.get().thread.conversationId);
    if (text !== "" || attachments.length > 0) this.parts.thread.send(text, attachments, this.agentId);
  }

  /** Before it is known what is taken, they wait for that. */
  attach(files: readonly File[]): void {
    const { agents, thread } = this.store.get();
    if (agents.length === 0) this.early.push([thread.conversationId, files]);
    else void this.parts.uploads.add(thread.conversationId, files, this.taken);
  }

  /** What the chosen assistant takes beside text. */
  get taken(): Taken {
    const { agents, agentId } = this.store.get();
    return agents.find((each) => each.id === agentId) ?? TAKES_NOTHING;
  }

  sendInstead(turnId: string, text: string): void {
    this.parts.thread.sendInstead(turnId, text, this.agentId);
  }

  answer(requestId: string, isApproved: boolean): void {
    this.parts.thread.answer(requestId, isApproved, this.agentId);
  }

  chooseAgent(id: string): void {
    this.parts.kept.keepAgent(id);
    this.store.set({ agentId: id });
  }

  async rename(conversation: Conversation, title: string): Promise<void> {
    const renamed = { ...conversation, title };
    this.changed(renamed);
    await this.attempt(conversation, async () => this.changed(await this.api.changeConversation(conversation.id, { title })));
  }

  async archive(conversation: Conversation, isArchived: boolean): Promise<void> {
    await this.attempt(conversation, async () => {
      this.changed(await this.api.changeConversation(conversation.id, { archived: isArchived }));
      this.notify(isArchived ? "archived" : "unarchived", conversation.title, () => void this.archive(conversation, !isArchived));
    });
  }

  async delete(conversation: Conversation): Promise<void> {
    this.parts.conversations.remove(conversation.id);
    const isOpen = this.store.get().thread.conversationId === conversation.id;
    await this.attempt(conversation, async () => {
      await this.api.deleteConversation(conversation.id);
      if (isOpen) this.newConversation();
      this.notify("deleted", conversation.title, () => void this.restore(conversation, isOpen));
    });
  }

  /** Shown at once; null takes it back. */
  async judge(responseId: string, feedback: Feedback | null): Promise<void> {
    const { thread } = this.store.get();
    await this.attempt({ id: thread.conversationId ?? "", title: thread.title }, () => this.parts.thread.judge(responseId, feedback));
  }

  /** Make a conversation of one's own of a shared one. Throws what the request does. */
  async copyShared(token: string): Promise<void> {
    if (!this.signed) {
      this.tokenToCopy = token;
      this.store.set({ sharedToken: null });
      return;
    }
    const copy = await this.api.copyShared(token);
    goTo(addressOf(copy.id));
  }

  async choose(responseId: string): Promise<void> {
    const { thread } = this.store.get();
    await this.attempt({ id: thread.conversationId ?? "", title: thread.title }, () => this.parts.thread.choose(responseId));
  }

  async stop(turnId?: string): Promise<void> {
    const { thread } = this.store.get();
    await this.attempt({ id: thread.conversationId ?? "", title: thread.title }, () => this.parts.thread.stop(turnId));
  }

  notify(kind: Notice["kind"], name: string, undo: (() => void) | null = null): void {
    const notice: Notice = { id: ++this.noticeId, kind, name, undo };
    this.store.set({ notices: [...this.store.get().notices.slice(-2), notice] });
    setTimeout(() => this.dismiss(notice.id), NOTICE_MS);
  }

  dismiss(id: number): void {
    this.store.set({ notices: this.store.get().notices.filter((each) => each.id !== id) });
  }

  private get agentId(): string {
    const { agentId, agents } = this.store.get();
    return agentId ?? agents[0]?.id ?? "";
  }

  private async restore(conversation: Conversation, isToBeOpened: boolean): Promise<void> {
    await this.attempt(conversation, async () => {
      this.changed(await this.api.restoreConversation(conversation.id));
      if (isToBeOpened) goTo(addressOf(conversation.id));
    });
  }

  private async attempt(about: { readonly id: string; readonly title: string }, change: () => Promise<void>): Promise<void> {
    try {
      await change();
    } catch (error) {
      if (problemOf(error).kind !== "expired") this.notify("failed", about.title);
      if (this.signed) void this.signed.conversations.reload();
    }
  }

  private signedIn(userId: string): void {
    const before = this.store.get();
    if (this.signed && before.userId === userId) {
      this.store.set({ session: "signed in" });
      this.resume();
      return;
    }
    this.suspend();
    const kept = new Kept(userId);
    const outbox = new Outbox(this.api, kept, {
      onTrying: (key) => this.signed?.thread.trying(key),
      onAccepted: (key, response) => {
        this.signed?.thread.acceptedAs(key, response);
        if (response.conversationId) this.touched({ conversationId: response.conversationId, kind: "" });
      },
      onProblem: (key, problem) => this.signed?.thread.failedFor(key, problem),
    });
    const conversations = new Conversations(this.store, this.api);
    const tasks = new Tasks(this.store, this.api);
    const uploads = new Uploads(this.store, this.api);
    const thread = new Thread(this.store, this.api, outbox, {
      onBegun: (id) => {
        uploads.begun(id);
        history.replaceState(null, "", addressOf(id));
      },
      onOpened: (conversation) => this.changed(conversation),
      onToolRun: () => void tasks.reload(),
      onAnswered: (id) => this.seen(id),
      onStream: (state) => this.streamIs("response", state),
      onExpired: () => this.expired(),
    });
    const feed = new Feed(this.api.client, {
      onOpen: () => this.caughtUp(),
      onTouched: (touched) => this.touched(touched),
      onState: (state) => this.streamIs("feed", state),
      onExpired: () => this.expired(),
    });
    this.signed = { kept, outbox, conversations, thread, tasks, uploads, files: new Files(this.api), feed };
    this.store.set({ session: "signed in", userId, agentId: kept.agent(), thread: NEW_THREAD });
    this.openAddress();
    void this.loadAgents();
    this.firstReading = setTimeout(() => this.caughtUp(), FEED_MS);
    feed.start();
    outbox.retryAll();
    if (this.tokenToCopy) void this.copyShared(this.tokenToCopy).catch(() => this.notify("failed", ""));
    this.tokenToCopy = null;
  }

  private async loadAgents(): Promise<void> {
    const agents = await this.api.agents().catch(() => null);
    if (!agents) return void setTimeout(() => void this.loadAgents(), AGAIN_MS);
    const { agentId } = this.store.get();
    const chosen = agents.find((agent) => agent.id === agentId) ?? agents[0];
    // Shown as on their way before a message that waits for the assistant can leave without them.
    for (let next = this.early.shift(); next; next = this.early.shift()) await this.parts.uploads.add(...next, chosen ?? TAKES_NOTHING);
    this.store.set({ agents, agentId: chosen?.id ?? null });
  }

  private openAddress(): void {
    if (!this.signed) return;
    const [, id = null, itemId, responseId = null] = ADDRESS.exec(location.hash) ?? [];
    const { thread, list, sharedToken } = this.store.get();
    if (sharedToken) return;
    const found = itemId ? { itemId, responseId } : null;
    const isOpen = id === thread.conversationId && thread.phase === "ready" && thread.transcript.length > 0;
    if (isOpen) return void (found && this.signed.thread.find(found));
    void this.signed.thread.open(id, list.conversations.find((each) => each.id === id)?.title, found);
  }

  private readSharedAddress(): void {
    const sharedToken = SHARED_ADDRESS.exec(location.hash)?.[1] ?? null;
    if (sharedToken !== this.store.get().sharedToken) this.store.set({ sharedToken });
  }

  /** The feed is open: what happened before is loaded now, what happens from now on is told. */
  private caughtUp(): void {
    if (!this.signed) return;
    const isFirst = this.firstReading !== undefined;
    clearTimeout(this.firstReading);
    this.firstReading = undefined;
    void this.signed.conversations.reload();
    const { conversationId } = this.store.get().thread;
    // What was just opened is as good as what would be read now, unless its conversation says otherwise.
    if (!isFirst) void this.signed.thread.refresh();
    else if (conversationId) void this.look(conversationId);
    void this.signed.tasks.reload();
    this.signed.outbox.retryAll();
  }

  private touched({ conversationId, kind }: Touched): void {
    const isOpen = this.store.get().thread.conversationId === conversationId && this.isLookedAt;
    if (kind === "conversation.response.ended") void this.signed?.tasks.reload();
    const isChanged = kind === "conversation.items.changed" || kind === "conversation.feedback.changed";
    if (isChanged && isOpen) void this.signed?.thread.refresh();
    clearTimeout(this.touches.get(conversationId));
    this.touches.set(
      conversationId,
      setTimeout(() => void this.look(conversationId), TOUCH_MS),
    );
  }

  private async look(conversationId: string): Promise<void> {
    this.touches.delete(conversationId);
    try {
      this.changed(await this.api.conversation(conversationId));
    } catch (error) {
      if (problemOf(error).kind !== "gone" || !this.signed) return;
      this.signed.conversations.remove(conversationId);
      this.signed.thread.gone(conversationId);
    }
  }

  private changed(conversation: Conversation): void {
    const isSeen = conversation.id === this.store.get().thread.conversationId && this.isLookedAt;
    if (isSeen && conversation.isUnread) void this.api.markRead(conversation.id).catch(() => undefined);
    this.signed?.conversations.put(isSeen ? { ...conversation, isUnread: false } : conversation);
    this.signed?.thread.renamed(conversation);
  }

  /** Its end was shown here. Said at once, as its reader may leave before the feed tells of it. */
  private seen(conversationId: string): void {
    if (this.isLookedAt) void this.api.markRead(conversationId).catch(() => undefined);
  }

  private expired(): void {
    if (this.store.get().session !== "signed in") return;
    this.suspend();
    this.store.set({ session: "expired" });
  }

  private suspend(): void {
    this.signed?.feed.stop();
    this.signed?.thread.pause(true);
    this.signed?.outbox.close();
  }

  private resume(): void {
    this.signed?.feed.start();
    this.signed?.thread.pause(false);
    this.signed?.outbox.retryAll();
  }

  private networkChanged(isOnline: boolean): void {
    this.store.set({ isOnline });
    if (isOnline) this.signed?.outbox.retryAll();
  }

  private get isLookedAt(): boolean {
    return !document.hidden && this.isShown;
  }

  private visibilityChanged(): void {
    clearTimeout(this.hiddenTimer);
    if (!this.isLookedAt) this.hiddenTimer = setTimeout(() => this.letGo(), HIDDEN_MS);
    if (document.hidden) return;
    const { conversationId } = this.store.get().thread;
    if (conversationId) void this.look(conversationId);
    if (this.store.get().session === "signed in") this.resume();
  }

  /** Give the streams back; in a tab that is looked at, when the answer under way has ended. */
  private letGo(): void {
    if (document.hidden || !openTurn(this.store.get().thread.transcript)) this.suspend();
    else this.hiddenTimer = setTimeout(() => this.letGo(), HIDDEN_MS);
  }

  private streamIs(name: string, state: StreamState | "none"): void {
    if (state === "lost") this.lost.add(name);
    else this.lost.delete(name);
    if (this.lost.size === 0) {
      clearTimeout(this.lostTimer);
      this.lostTimer = undefined;
      if (this.store.get().isReconnecting) this.store.set({ isReconnecting: false });
      return;
    }
    this.lostTimer ??= setTimeout(() => this.store.set({ isReconnecting: true }), RECONNECTING_MS);
  }
}
