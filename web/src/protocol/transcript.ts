/**
 * What is said in a conversation, as a value: the shown path through its tree of turns. A turn is what went in (mostly
 * one message of the user's) and what came out. All functions are pure, and return their argument itself where nothing
 * changes, so that a view can compare by identity.
 */

import {
  type Failure,
  type Feedback,
  isEnded,
  type Item,
  type ResponseStatus,
  type StoredItem,
  type StreamEvent,
  type TreeResponse,
  type WireResponse,
} from "./wire";

/** `sending` and `unsent` are turns that the server has not accepted; `added` has items that belong to no response. */
export type TurnStatus = ResponseStatus | "sending" | "unsent" | "added";

export interface Turn {
  /** Never changes: the idempotency key of a turn that began here, else the response's id. */
  readonly id: string;
  readonly responseId: string | null;
  /** The response that it follows. */
  readonly parentId: string | null;
  /** Responses that follow the same one, itself among them, oldest first. */
  readonly siblingIds: readonly string[];
  readonly status: TurnStatus;
  readonly input: readonly Item[];
  readonly output: readonly Item[];
  /** The number of the last event that is in `output`; -1: none. */
  readonly seen: number;
  readonly error: Failure | null;
  readonly incompleteReason: string | null;
  readonly feedback: Feedback | null;
  /** Seconds since 1970. */
  readonly createdAt: number;
}

/** The shown path, oldest first. */
export type Transcript = readonly Turn[];

export const EMPTY: Transcript = [];
const BEFORE_FIRST = -1;

export function isOpen(turn: Turn): boolean {
  return turn.status === "queued" || turn.status === "in_progress";
}

/** The next one to follow: they are answered one after another. */
export function openTurn(transcript: Transcript): Turn | undefined {
  return transcript.find(isOpen);
}

/** What stopping stops: what is being answered, else what is on its way to it. */
export function runningTurn(transcript: Transcript): Turn | undefined {
  return openTurn(transcript) ?? transcript.find((turn) => turn.status === "sending");
}

/** The response that a new message follows. */
export function headOf(transcript: Transcript): string | null {
  return transcript.findLast((turn) => turn.responseId !== null)?.responseId ?? null;
}

/** A turn that begins here; `id` is its idempotency key. `beside`: the responses that it is another version of. */
export function newTurn(id: string, input: readonly Item[], parentId: string | null, createdAt: number, beside: readonly string[] = []): Turn {
  return { ...blank(id, createdAt), parentId, input, siblingIds: beside, status: "sending" };
}

function blank(id: string, createdAt: number): Turn {
  return {
    id,
    responseId: null,
    parentId: null,
    siblingIds: [],
    status: "added",
    input: [],
    output: [],
    seen: BEFORE_FIRST,
    error: null,
    incompleteReason: null,
    feedback: null,
    createdAt,
  };
}

/**
 * What the server lists of a path, as turns. `items` are oldest first; `tree` was read before them, so that what it says
 * has ended is whole in them. What has not ended comes without its output: its stream is replayed from the beginning.
 * What the tree does not know is new, or its response was deleted; its stream tells which.
 */
export function turnsOf(items: readonly StoredItem[], tree: readonly TreeResponse[]): Transcript {
  const places = new Map(tree.map((response) => [response.id, response]));
  const turns: Turn[] = [];
  for (const stored of items) {
    const last = turns.at(-1);
    if (last && last.responseId === stored.responseId && stored.responseId !== null) {
      turns[turns.length - 1] = { ...last, input: [...last.input, stored.item] };
      continue;
    }
    const turn = blank(stored.responseId ?? stored.item.id, stored.createdAt);
    const place = stored.responseId === null ? undefined : places.get(stored.responseId);
    turns.push({
      ...turn,
      responseId: stored.responseId,
      parentId: place?.previousResponseId ?? null,
      siblingIds: place?.siblingIds ?? [],
      feedback: place?.feedback ?? null,
      status: stored.responseId === null ? "added" : (place?.status ?? "in_progress"),
      input: [stored.item],
    });
  }
  return turns.map((turn) => {
    if (turn.responseId === null) return turn;
    const { input, output } = split(turn.input);
    const isToBeReplayed = isOpen(turn) && places.has(turn.responseId);
    return isToBeReplayed ? { ...turn, input } : { ...turn, input, output };
  });
}

/** Output is what comes behind the last thing that only a client can say. */
function split(items: readonly Item[]): { readonly input: readonly Item[]; readonly output: readonly Item[] } {
  const last = items.findLastIndex((item) => item.type === "approval_answer" || (item.type === "message" && item.role !== "assistant"));
  return { input: items.slice(0, last + 1), output: items.slice(last + 1) };
}

/**
 * The newest page, read again, put over what is shown. Turns keep their ids, what was streamed into them, and their
 * identity where they are the same; what the server does not know yet stays at the end; pages loaded earlier stay if the
 * new page goes on from them.
 */
export function refreshed(shown: Transcript, newest: Transcript): Transcript {
  const known = new Map(shown.flatMap((turn) => (turn.responseId === null ? [[turn.id, turn]] : [[turn.responseId, turn]])));
  const first = newest[0];
  const joint = first ? shown.findIndex((turn) => placeOf(turn) === placeOf(first)) : -1;
  const earlier = joint > 0 ? shown.slice(0, joint) : [];
  const local = shown.filter((turn) => turn.status === "sending" || turn.status === "unsent");
  const page = newest.map((turn, index) => {
    const before = known.get(placeOf(turn));
    return before ? combined(before, turn, index === 0) : turn;
  });
  const next = [...earlier, ...page, ...local];
  return same(shown, next) ? shown : next;
}

function placeOf(turn: Turn): string {
  return turn.responseId ?? turn.id;
}

/** `isCut`: the page may begin within the turn, so that what is shown of it may be more. */
function combined(before: Turn, now: Turn, isCut: boolean): Turn {
  const isPlaced = equal(before.siblingIds, now.siblingIds) && before.parentId === now.parentId;
  const isJudged = before.feedback?.rating === now.feedback?.rating && before.feedback?.reason === now.feedback?.reason;
  const placed = isPlaced && isJudged ? before : { ...before, siblingIds: now.siblingIds, parentId: now.parentId, feedback: now.feedback };
  // What is followed goes on from what was heard, also if it has ended since: its stream tells so.
  const isSettled = !isOpen(before) && !isOpen(now) && !isCut;
  if (!isSettled || (before.input.length === now.input.length && equal(ids(before.output), ids(now.output)))) return placed;
  return { ...placed, input: now.input, output: now.output };
}

function ids(items: readonly Item[]): readonly string[] {
  return items.map((item) => item.id);
}

function equal(left: readonly string[], right: readonly string[]): boolean {
  return left.length === right.length && left.every((each, index) => each === right[index]);
}

function same(left: Transcript, right: Transcript): boolean {
  return left.length === right.length && left.every((each, index) => each === right[index]);
}

/** An earlier page before what is shown. A turn that the page boundary cut is joined. */
export function prepended(shown: Transcript, earlier: Transcript): Transcript {
  const last = earlier.at(-1);
  const first = shown[0];
  if (!last || !first || last.responseId === null || last.responseId !== first.responseId) return [...earlier, ...shown];
  const { input, output } = split([...last.input, ...last.output, ...first.input, ...first.output]);
  return [...earlier.slice(0, -1), { ...first, input, output, createdAt: last.createdAt }, ...shown.slice(1)];
}

/** The server accepted the turn `id` as `response`. */
export function accepted(shown: Transcript, id: string, response: WireResponse): Transcript {
  const others = shown.filter((turn) => turn.id === id || turn.responseId !== response.id);
  return changed(others, id, (turn) => ({
    ...turn,
    responseId: response.id,
    parentId: response.previousResponseId,
    siblingIds: [...turn.siblingIds.filter((each) => each !== response.id), response.id],
    // What has ended already is replayed like what has not.
    status: response.status === "queued" ? "queued" : "in_progress",
    createdAt: response.createdAt || turn.createdAt,
  }));
}

/** Change one turn. */
export function changed(shown: Transcript, id: string, change: (turn: Turn) => Turn): Transcript {
  const index = shown.findIndex((turn) => turn.id === id);
  const before = shown[index];
  if (!before) return shown;
  const after = change(before);
  return after === before ? shown : shown.with(index, after);
}

/** Nothing more will be told of this response. */
export function settled(shown: Transcript, responseId: string): Transcript {
  const turn = shown.find((each) => each.responseId === responseId);
  return turn && isOpen(turn) ? changed(shown, turn.id, (before) => ({ ...before, status: "completed" })) : shown;
}

/** Put events of a response's stream into its turn. */
export function withEvents(shown: Transcript, responseId: string, events: readonly StreamEvent[]): Transcript {
  const turn = shown.find((each) => each.responseId === responseId);
  return turn ? changed(shown, turn.id, (before) => events.reduce(withEvent, before)) : shown;
}

/**
 * The turn after an event. An event counts only if it is the next one: what was seen is ignored, and so is what lies
 * behind a gap, which the stream tells again from the last number that was applied.
 */
export function withEvent(turn: Turn, event: StreamEvent): Turn {
  if (event.sequence !== turn.seen + 1 || (!isOpen(turn) && turn.seen === BEFORE_FIRST)) return turn;
  return { ...effect(turn, event), seen: event.sequence };
}

function effect(turn: Turn, event: StreamEvent): Turn {
  switch (event.type) {
    case "state":
      return isEnded(event.status) ? turn : { ...turn, status: event.status };
    case "item.added":
      // What a worker that died left behind is taken away by what replaces it.
      return { ...turn, output: [...turn.output.filter((item) => !isAbandoned(item) && item.id !== event.item.id), event.item] };
    case "item.done":
      return withItem(turn, event.item.id, () => event.item);
    case "delta":
      return withItem(turn, event.itemId, (item) => extended(item, event.field, event.delta));
    case "arguments":
      return withItem(turn, event.itemId, (item) =>
        item.type === "tool_call" ? { ...item, arguments: event.arguments } : item,
      );
    case "part.added":
      return event.index === 0 ? turn : withItem(turn, event.itemId, (item) => extended(item, "text", "\n\n"));
    case "ended": {
      const { status, output, error, incompleteReason } = event.response;
      return { ...turn, status, output, error, incompleteReason };
    }
    case "other":
      return turn;
  }
}

function isAbandoned(item: Item): boolean {
  return item.type === "message" && item.status === "incomplete";
}

function withItem(turn: Turn, id: string, change: (item: Item) => Item): Turn {
  const index = turn.output.findLastIndex((item) => item.id === id);
  const before = turn.output[index];
  return before ? { ...turn, output: turn.output.with(index, change(before)) } : turn;
}

function extended(item: Item, field: "text" | "arguments", delta: string): Item {
  if (field === "arguments") return item.type === "tool_call" ? { ...item, arguments: item.arguments + delta } : item;
  return item.type === "message" || item.type === "reasoning" ? { ...item, text: item.text + delta } : item;
}

/** The answers given so far to requests for approval, by the request's id. */
export function approvals(transcript: Transcript): ReadonlyMap<string, boolean> {
  const answers = transcript.flatMap((turn) => turn.input.filter((item) => item.type === "approval_answer"));
  return new Map(answers.map((answer) => [answer.requestId, answer.isApproved]));
}

/** The turn that holds this item; else the one of the response, where the item has no id of the gateway's here. */
export function turnWith(transcript: Transcript, sought: { readonly itemId: string; readonly responseId: string | null }): Turn | undefined {
  const holds = (item: Item): boolean => item.id === sought.itemId;
  const turn = transcript.find((each) => each.input.some(holds) || each.output.some(holds));
  return turn ?? transcript.find((each) => each.responseId !== null && each.responseId === sought.responseId);
}

/** What the user said in the turn. */
export function saidIn(turn: Turn): string {
  const said = turn.input.filter((item) => item.type === "message" && item.role === "user");
  return said.map((item) => (item.type === "message" ? item.text : "")).join("\n\n");
}

/** What was answered in the turn, without tools and thoughts. */
export function answeredIn(turn: Turn): string {
  return turn.output.flatMap((item) => (item.type === "message" ? [item.text] : [])).join("\n\n");
}
