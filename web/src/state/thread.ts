/** The open conversation: loads it, follows what is being answered in it, and changes it. */

import {
  accepted,
  changed,
  headOf,
  isOpen,
  newTurn,
  openTurn,
  prepended,
  refreshed,
  runningTurn,
  saidIn,
  settled,
  type Transcript,
  type Turn,
  turnsOf,
  turnWith,
  withEvents,
} from "../protocol/transcript";
import {
  type Attachment,
  type Conversation,
  type Feedback,
  type Item,
  isEnded,
  type MessageItem,
  readItem,
  readStreamEvent,
  record,
  type StoredItem,
  type StreamEvent,
  type TreeResponse,
  type WireResponse,
} from "../protocol/wire";
import { type Api, type ResponseBody, streamPath } from "../transport/api";
import { Frames } from "../transport/frames";
import { follow, type StreamState } from "../transport/stream";
import type { Unsent } from "./kept";
import { newId } from "./ids";
import { type Found, NEW_THREAD, type Problem, type State, type ThreadState } from "./model";
import type { Outbox } from "./outbox";
import { problemOf } from "./problems";
import type { Store } from "./store";

const LEFT_AFTER_MS = 150; // so long the conversation before stays in sight while the next one loads
const TREE_PAGES_MAX = 5;
const FINDING_PAGES_MAX = 60; // so far back a search leads

export interface ThreadEvents {
  /** A conversation began with a message of this tab. */
  readonly onBegun: (conversationId: string) => void;
  /** A tool of a server has done something. */
  readonly onToolRun: () => void;
  /** The end of an answer is shown. */
  readonly onAnswered: (conversationId: string) => void;
  /** It is shown now. */
  readonly onOpened: (conversation: Conversation) => void;
  readonly onStream: (state: StreamState | "none") => void;
  readonly onExpired: () => void;
}

export class Thread {
  private life = new AbortController();
  private stream: { readonly responseId: string; readonly end: () => void } | null = null;
  private isPaused = false;
  /** While a conversation is being read: whether something happened since, so that it has to be read again. */
  private opening: { isStale: boolean } | null = null;
  /** Turns that were to be stopped before the gateway had a name for them. */
  private readonly unwanted = new Set<string>();
  private oldestItemId: string | null = null;
  private tree: readonly TreeResponse[] = [];

  constructor(
    private readonly store: Store<State>,
    private readonly api: Api,
    private readonly outbox: Outbox,
    private readonly events: ThreadEvents,
  ) {}

  /** Show another conversation; null: a new one. What arrives for the one before is dropped. */
  async open(conversationId: string | null, title = "", found: Found | null = null): Promise<void> {
    this.leave();
    this.tree = [];
    this.oldestItemId = null;
    const { signal } = this.life;
    const opening = { isStale: false };
    if (conversationId === null) {
      this.show({ ...NEW_THREAD, transcript: this.outbox.of(null).map(turnOfUnsent) });
      return;
    }
    this.opening = opening;
    // A conversation that opens at once shows no empty page on the way. Where the page is empty as it is, what is
    // typed from now on is meant for this conversation, and not for a new one.
    const isEmpty = this.state.conversationId === null && this.state.transcript.length === 0;
    const wait = (): void => this.show({ ...NEW_THREAD, conversationId, title, phase: "loading" });
    if (isEmpty) wait();
    const late = isEmpty ? undefined : setTimeout(wait, LEFT_AFTER_MS);
    try {
      const [conversation, newest] = await Promise.all([this.api.conversation(conversationId, signal), this.newest(conversationId, signal)]);
      clearTimeout(late);
      // Looked up now: what was accepted in the meantime is among the server's, or will be told of.
      const unsent = this.outbox.of(conversationId).map(turnOfUnsent);
      const transcript = [...newest.transcript, ...unsent];
      this.opening = null;
      this.show({ ...NEW_THREAD, conversationId, title: conversation.title, transcript, hasEarlier: newest.hasMore });
      this.attend();
      this.events.onOpened(conversation);
      if (found) void this.find(found);
      void this.explainFailures(signal);
      if (opening.isStale) void this.refresh();
      for (const turn of unsent) this.outbox.retry(turn.id);
    } catch (error) {
      clearTimeout(late);
      if (signal.aborted) return;
      this.opening = null;
      const phase = problemOf(error).kind === "gone" || problemOf(error).kind === "refused" ? "gone" : "failed";
      this.show({ ...NEW_THREAD, conversationId, title, phase });
    }
  }

  /** Read the newest page again, as something happened elsewhere. */
  async refresh(): Promise<void> {
    const { conversationId, phase } = this.state;
    if (this.opening) {
      this.opening.isStale = true;
      return;
    }
    if (conversationId === null) return;
    if (phase !== "ready") return this.open(conversationId, this.state.title);
    const { signal } = this.life;
    try {
      const newest = await this.newest(conversationId, signal);
      const before = this.state.transcript;
      const transcript = refreshed(before, newest.transcript);
      const isJoined = transcript.length > newest.transcript.length && transcript[0] === before[0];
      this.show({ transcript, ...(isJoined ? {} : { hasEarlier: newest.hasMore }) });
      if (!isJoined) this.oldestItemId = newest.oldestItemId;
      this.attend();
    } catch (error) {
      if (!signal.aborted && problemOf(error).kind === "gone") this.show({ phase: "gone" });
    }
  }

  /** The conversation was changed, here or elsewhere; whether its turns are others than those that are shown. */
  renamed(conversation: Conversation): void {
    if (conversation.id !== this.state.conversationId) return;
    if (conversation.title !== this.state.title) this.show({ title: conversation.title });
    const { transcript, phase } = this.state;
    if (phase === "gone") return void this.refresh();
    const isKnown = headOf(transcript) === conversation.activeResponseId;
    const isRunningKnown = conversation.runningResponseId === null || transcript.some((turn) => turn.responseId === conversation.runningResponseId);
    if (!isKnown || !isRunningKnown) void this.refresh();
  }

  gone(conversationId: string): void {
    if (conversationId !== this.state.conversationId) return;
    this.leave();
    this.show({ phase: "gone" });
  }

  /** Go to a message: of an earlier page, or of another branch, which is then the chosen one. */
  async find(found: Found): Promise<void> {
    const { signal } = this.life;
    const isThere = (): boolean => turnWith(this.state.transcript, found) !== undefined;
    const look = async (): Promise<void> => {
      for (let pages = 0; pages < FINDING_PAGES_MAX && this.state.hasEarlier && !isThere(); pages += 1) await this.loadEarlier();
    };
    await look();
    if (!isThere() && found.responseId && !signal.aborted) {
      await this.choose(found.responseId).catch(() => undefined);
      await look();
    }
    if (!signal.aborted && isThere()) this.show({ found });
  }

  async loadEarlier(): Promise<void> {
    const { conversationId, hasEarlier, isLoadingEarlier } = this.state;
    if (conversationId === null || !hasEarlier || isLoadingEarlier) return;
    const { signal } = this.life;
    this.show({ isLoadingEarlier: true });
    try {
      const page = await this.api.items(conversationId, this.oldestItemId, signal);
      await this.loadTree(conversationId, page.data, signal);
      this.oldestItemId = page.lastId;
      const earlier = turnsOf(page.data.toReversed(), this.tree);
      this.show({ transcript: prepended(this.state.transcript, earlier), hasEarlier: page.hasMore, isLoadingEarlier: false });
    } catch {
      if (!signal.aborted) this.show({ isLoadingEarlier: false });
    }
  }

  /** Say something, at the end of what is shown. */
  send(text: string, attachments: readonly Attachment[], agentId: string): void {
    const { transcript } = this.state;
    const last = transcript.at(-1);
    const follows = last && last.responseId === null && last.status !== "added" ? last.id : null;
    const body = { model: agentId, input: inputOf(text, attachments), ...this.placeAfter(headOf(transcript)) };
    this.begin(text, [messageItem(text, attachments)], body, follows, transcript);
  }

  /** Say it otherwise, or have it answered again: a branch that begins where the turn does. */
  sendInstead(turnId: string, text: string, agentId: string): void {
    const { transcript, conversationId } = this.state;
    const index = transcript.findIndex((turn) => turn.id === turnId);
    const turn = transcript[index];
    if (!turn) return;
    const place = turn.parentId ? { previous_response_id: turn.parentId } : { conversation: conversationId, branch_at_start: true };
    const attachments = turn.input.flatMap((item) => (item.type === "message" ? item.attachments : []));
    this.show({ editing: null });
    const beside = turn.siblingIds.length > 0 ? turn.siblingIds : [turn.responseId ?? ""];
    const body = { model: agentId, input: inputOf(text, attachments), ...place };
    this.begin(text, [messageItem(text, attachments)], body, null, transcript.slice(0, index), beside);
  }

  /** Allow a call of a tool, or refuse it. */
  answer(requestId: string, isApproved: boolean, agentId: string): void {
    const { transcript } = this.state;
    const asking = transcript.find((turn) => turn.output.some((item) => item.id === requestId));
    if (!asking?.responseId) return;
    const item: Item = { type: "approval_answer", id: newId(), requestId, isApproved };
    const input = [{ type: "mcp_approval_response", approval_request_id: requestId, approve: isApproved }];
    this.begin("", [item], { model: agentId, input, previous_response_id: asking.responseId }, null, transcript);
  }

  retry(turnId: string): void {
    this.outbox.retry(turnId);
  }

  /** Give up a message that could not be sent. Returns its text, so that it is not lost. */
  discard(turnId: string): string {
    const turn = this.state.transcript.find((each) => each.id === turnId);
    this.outbox.drop(turnId);
    this.show({ transcript: this.state.transcript.filter((each) => each.id !== turnId) });
    void this.refresh();
    return turn ? saidIn(turn) : "";
  }

  /** Stop what is being answered, or on its way. It ends by its stream, here and in every other tab. */
  async stop(turnId?: string): Promise<void> {
    const { transcript } = this.state;
    const turn = turnId ? transcript.find((each) => each.id === turnId) : runningTurn(transcript);
    if (turn?.status === "sending") this.unwanted.add(turn.id);
    if (turn?.responseId && isOpen(turn)) await this.api.cancelResponse(turn.responseId);
  }

  /** Show the branch through this response. Throws what the request does. */
  async choose(responseId: string): Promise<void> {
    const { conversationId } = this.state;
    if (conversationId === null) return;
    const { signal } = this.life;
    await this.api.changeConversation(conversationId, { active_response_id: responseId });
    const newest = await this.newest(conversationId, signal);
    this.oldestItemId = newest.oldestItemId;
    this.show({ transcript: newest.transcript, hasEarlier: newest.hasMore, editing: null });
    this.attend();
  }

  /** What the user thinks of a response: shown at once, taken back if it cannot be stored. Throws what the request does. */
  async judge(responseId: string, feedback: Feedback | null): Promise<void> {
    const before = this.state.transcript.find((turn) => turn.responseId === responseId);
    if (!before) return;
    const put = (now: Feedback | null): void => this.show({ transcript: changed(this.state.transcript, before.id, (turn) => ({ ...turn, feedback: now })) });
    put(feedback);
    try {
      await this.api.giveFeedback(responseId, feedback);
    } catch (error) {
      put(before.feedback);
      throw error;
    }
  }

  edit(turnId: string | null): void {
    this.show({ editing: turnId });
  }

  /** Let the stream go, as nobody looks; or take it up again. */
  pause(isPaused: boolean): void {
    this.isPaused = isPaused;
    if (isPaused) this.endStream();
    else this.attend();
  }

  /** A message of the outbox is being sent: again, or for the first time. */
  trying(key: string): void {
    const problems = new Map(this.state.problems);
    if (problems.delete(key)) this.show({ problems });
    this.show({ transcript: changed(this.state.transcript, key, (turn) => ({ ...turn, status: "sending" })) });
  }

  acceptedAs(key: string, response: WireResponse): void {
    if (this.unwanted.delete(key)) void this.api.cancelResponse(response.id).catch(() => undefined);
    if (!this.state.transcript.some((turn) => turn.id === key)) return;
    this.show({ transcript: accepted(this.state.transcript, key, response) });
    if (this.state.conversationId === null && response.conversationId) {
      this.show({ conversationId: response.conversationId });
      this.events.onBegun(response.conversationId);
    }
    this.attend();
  }

  failedFor(key: string, problem: Problem): void {
    this.unwanted.delete(key);
    if (!this.state.transcript.some((turn) => turn.id === key)) return;
    const problems = new Map(this.state.problems).set(key, problem);
    this.show({ problems, transcript: changed(this.state.transcript, key, (turn) => ({ ...turn, status: "unsent" })) });
  }

  /** End all that goes on for the shown conversation. */
  leave(): void {
    this.endStream();
    this.opening = null;
    this.life.abort();
    this.life = new AbortController();
  }

  private get state(): ThreadState {
    return this.store.get().thread;
  }

  private show(change: Partial<ThreadState>): void {
    this.store.set({ thread: { ...this.state, ...change } });
  }

  private placeAfter(head: string | null): ResponseBody {
    if (head) return { previous_response_id: head };
    return this.state.conversationId ? { conversation: this.state.conversationId } : {};
  }

  private begin(
    text: string,
    input: readonly Item[],
    body: ResponseBody,
    follows: string | null,
    before: Transcript,
    beside: readonly string[] = [],
  ): void {
    const key = newId();
    const { conversationId, sendCount } = this.state;
    const parentId = typeof body["previous_response_id"] === "string" ? body["previous_response_id"] : null;
    const turn = newTurn(key, input, parentId, Date.now() / 1000, beside);
    this.show({ transcript: [...before, turn], sendCount: sendCount + 1, editing: null });
    // A conversation may outgrow what the model reads at once, and nobody here could say what to do then.
    this.outbox.send({ key, conversationId, text, follows, body: { ...body, background: true, truncation: "auto" } });
  }

  /** The newest page. The tree is read first: what it says has ended is then whole among the items. */
  private async newest(conversationId: string, signal: AbortSignal): Promise<{ transcript: Transcript; hasMore: boolean; oldestItemId: string | null }> {
    const first = await this.api.tree(conversationId, null, signal);
    this.tree = first.data;
    const page = await this.api.items(conversationId, null, signal);
    await this.loadTree(conversationId, page.data, signal);
    this.oldestItemId ??= page.lastId;
    return { transcript: turnsOf(page.data.toReversed(), this.tree), hasMore: page.hasMore, oldestItemId: page.lastId };
  }

  /** Older parts of the tree, as far as these items need them. */
  private async loadTree(conversationId: string, items: readonly StoredItem[], signal: AbortSignal): Promise<void> {
    const oldest = items.findLast((stored) => stored.responseId !== null)?.responseId;
    for (let pages = 0; pages < TREE_PAGES_MAX; pages += 1) {
      if (!oldest || this.tree.length === 0 || this.tree.some((response) => response.id === oldest)) return;
      const page = await this.api.tree(conversationId, this.tree.at(-1)?.id ?? null, signal);
      this.tree = [...this.tree, ...page.data];
      if (!page.hasMore) return;
    }
  }

  /** Lists do not say why a response failed. */
  private async explainFailures(signal: AbortSignal): Promise<void> {
    for (const turn of this.state.transcript) {
      if (turn.status !== "failed" || turn.error || !turn.responseId) continue;
      const response = await this.api.response(turn.responseId, signal).catch(() => null);
      if (signal.aborted) return;
      if (response) this.show({ transcript: changed(this.state.transcript, turn.id, (each) => ({ ...each, error: response.error })) });
    }
  }

  /** Follow the next response that is not at its end: one at a time, as they are answered one after another. */
  private attend(): void {
    const turn = this.isPaused ? undefined : openTurn(this.state.transcript);
    if (turn?.responseId === this.stream?.responseId && turn) return;
    this.endStream();
    if (turn?.responseId) void this.follow(turn.responseId);
  }

  private endStream(): void {
    this.stream?.end();
    this.stream = null;
    this.events.onStream("none");
  }

  private async follow(responseId: string): Promise<void> {
    const own = new AbortController();
    let heard = this.turnOf(responseId)?.seen ?? -1;
    const frames = new Frames<StreamEvent>((batch) => {
      this.show({ transcript: withEvents(this.state.transcript, responseId, batch) });
      if (batch.some((event) => event.type === "item.done" && event.item.type === "tool_call")) this.events.onToolRun();
    });
    this.stream = {
      responseId,
      end: () => {
        frames.flush();
        own.abort();
      },
    };
    const end = await follow(this.api.client, {
      path: () => streamPath(responseId, heard),
      onEvent: (value) => {
        const event = readStreamEvent(value);
        if (!event || event.sequence <= heard) return "go on";
        if (event.sequence > heard + 1) return "reopen";
        heard = event.sequence;
        frames.add(event);
        return event.type === "ended" ? "stop" : "go on";
      },
      onState: this.events.onStream,
      signal: own.signal,
    }).catch(() => null);
    if (end === null || this.stream?.responseId !== responseId) return;
    frames.flush();
    if (end === "ended" && this.state.conversationId) this.events.onAnswered(this.state.conversationId);
    // The response was deleted; what was said stays.
    if (end === "gone") this.show({ transcript: settled(this.state.transcript, responseId) });
    this.stream = null;
    this.events.onStream("none");
    if (end === "refused") this.events.onExpired();
    else this.attend();
  }

  private turnOf(responseId: string): Turn | undefined {
    return this.state.transcript.find((turn) => turn.responseId === responseId);
  }
}

/** Whether the turn's end is one that can be tried again. */
export function isRepeatable(turn: Turn): boolean {
  const status = turn.status;
  const isSaid = turn.input.some((item) => item.type === "message" && item.role === "user");
  return status !== "sending" && status !== "unsent" && status !== "added" && isEnded(status) && isSaid;
}

function turnOfUnsent(unsent: Unsent): Turn {
  const parentId = unsent.body["previous_response_id"];
  const given = unsent.body["input"];
  const items = (Array.isArray(given) ? given : []).map((each) => readItem({ type: "message", ...record(each) }));
  const answers = items.filter((item) => item?.type === "approval_answer");
  const attachments = items.flatMap((item) => (item?.type === "message" ? item.attachments : []));
  const input = answers.length > 0 ? answers : [messageItem(unsent.text, attachments)];
  return newTurn(unsent.key, input, typeof parentId === "string" ? parentId : null, Date.now() / 1000);
}

function messageItem(text: string, attachments: readonly Attachment[]): MessageItem {
  return { type: "message", id: newId(), role: "user", status: "completed", text, attachments };
}

/** What is sent for a message: its text, if that is all. */
function inputOf(text: string, attachments: readonly Attachment[]): unknown {
  if (attachments.length === 0) return text;
  const files = attachments.map(({ kind, fileId, name }) =>
    kind === "image" ? { type: "input_image", file_id: fileId } : { type: "input_file", file_id: fileId, ...(name ? { filename: name } : {}) },
  );
  return [{ role: "user", content: [...(text ? [{ type: "input_text", text }] : []), ...files] }];
}
