/** All that the page shows, as one value. */

import { EMPTY, type Transcript } from "../protocol/transcript";
import type { Agent, Conversation, Task } from "../protocol/wire";
import { Store } from "./store";
import type { Upload } from "./uploads";

/** Why something did not go through, in a form that words can be found for. */
export interface Problem {
  readonly kind: "offline" | "unreachable" | "expired" | "limited" | "busy" | "refused" | "gone";
  /** The gateway's sentence, where it said one. */
  readonly message: string;
  readonly requestId: string | null;
  /** When it is worth another try; milliseconds since 1970. */
  readonly retryAt: number | null;
}

export type Phase = "loading" | "ready" | "failed";

export interface ListState {
  readonly phase: Phase;
  readonly conversations: readonly Conversation[];
  readonly hasMore: boolean;
  readonly isLoadingMore: boolean;
  readonly search: string;
  readonly isArchived: boolean;
}

/** A message by its id, and by its response's: what was said in this tab has no id of the gateway's yet. */
export interface Found {
  readonly itemId: string;
  readonly responseId: string | null;
}

export interface ThreadState {
  /** Null: a conversation that has yet to begin. */
  readonly conversationId: string | null;
  readonly phase: Phase | "gone";
  readonly title: string;
  readonly transcript: Transcript;
  /** Why a turn could not be sent, by its id. */
  readonly problems: ReadonlyMap<string, Problem>;
  readonly hasEarlier: boolean;
  readonly isLoadingEarlier: boolean;
  /** The turn whose message is being edited. */
  readonly editing: string | null;
  /** The message that a search led to. */
  readonly found: Found | null;
  /** Counts up when a reader of this tab sends: the view then goes to the end. */
  readonly sendCount: number;
}

export interface TasksState {
  readonly phase: Phase;
  readonly tasks: readonly Task[];
  readonly total: number;
}

export interface Notice {
  readonly id: number;
  readonly kind: "deleted" | "archived" | "unarchived" | "copied" | "failed";
  readonly name: string;
  readonly undo: (() => void) | null;
}

export interface State {
  readonly session: "starting" | "unreachable" | "signed out" | "signed in" | "expired";
  readonly userId: string;
  readonly isDevLoginOffered: boolean;
  readonly isOnline: boolean;
  /** Whether streams are lost for long enough to say so. */
  readonly isReconnecting: boolean;
  readonly agents: readonly Agent[];
  readonly agentId: string | null;
  readonly list: ListState;
  /** Files that are on their way into messages. */
  readonly uploads: readonly Upload[];
  /** The link of a shared conversation that is being read; whoever reads it need not be signed in. */
  readonly sharedToken: string | null;
  readonly thread: ThreadState;
  readonly tasks: TasksState;
  readonly notices: readonly Notice[];
}

export const NEW_THREAD: ThreadState = {
  conversationId: null,
  phase: "ready",
  title: "",
  transcript: EMPTY,
  problems: new Map(),
  hasEarlier: false,
  isLoadingEarlier: false,
  editing: null,
  found: null,
  sendCount: 0,
};

export function newStore(): Store<State> {
  return new Store<State>({
    session: "starting",
    userId: "",
    isDevLoginOffered: false,
    isOnline: navigator.onLine,
    isReconnecting: false,
    agents: [],
    agentId: null,
    list: { phase: "loading", conversations: [], hasMore: false, isLoadingMore: false, search: "", isArchived: false },
    uploads: [],
    sharedToken: null,
    thread: NEW_THREAD,
    tasks: { phase: "loading", tasks: [], total: 0 },
    notices: [],
  });
}
