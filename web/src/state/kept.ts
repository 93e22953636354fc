/** What this browser keeps for a user: drafts, messages that are not sent yet, small choices. Never answers. */

import { record } from "../protocol/wire";
import type { ResponseBody } from "../transport/api";

/** A message on its way. */
export interface Unsent {
  readonly key: string;
  /** Null: it begins a conversation. */
  readonly conversationId: string | null;
  readonly text: string;
  /** The key of the message that it follows, where that one was on its way too. */
  readonly follows: string | null;
  /** What is sent; it stays the same from the first try on, since the key stands for it. */
  readonly body: ResponseBody;
}

/** What storage, full or forbidden, did not take: messages on their way are among it, and must be found again. */
const FORGETTING = new Map<string, string>();

export class Kept {
  constructor(private readonly userId: string) {}

  draft(conversationId: string | null): string {
    return this.get(`draft.${conversationId ?? "new"}`) ?? "";
  }

  keepDraft(conversationId: string | null, text: string): void {
    this.put(`draft.${conversationId ?? "new"}`, text || null);
  }

  outbox(): readonly Unsent[] {
    const kept = this.read("outbox");
    if (!Array.isArray(kept)) return [];
    return kept.map(record).flatMap((each): Unsent[] => {
      const { key, text } = each;
      if (typeof key !== "string" || typeof text !== "string") return [];
      const named = (name: string): string | null => (typeof each[name] === "string" ? each[name] : null);
      return [{ key, text, conversationId: named("conversationId"), follows: named("follows"), body: record(each["body"]) }];
    });
  }

  /** Another tab may have changed the outbox: it is read anew for each change. */
  keepUnsent(unsent: Unsent): void {
    const others = this.outbox().filter((each) => each.key !== unsent.key);
    this.put("outbox", JSON.stringify([...others, unsent]));
  }

  dropUnsent(key: string): void {
    const others = this.outbox().filter((each) => each.key !== key);
    this.put("outbox", others.length > 0 ? JSON.stringify(others) : null);
  }

  agent(): string | null {
    return this.get("agent");
  }

  keepAgent(id: string): void {
    this.put("agent", id);
  }

  /** The conversation that the widget shows: the address of its frame is made anew with every page. */
  shown(): string | null {
    return this.get("shown");
  }

  keepShown(conversationId: string | null): void {
    this.put("shown", conversationId);
  }

  private name(what: string): string {
    return `parley.${this.userId}.${what}`;
  }

  /** Whether a reload finds what is kept. Browsers may forbid storage, above all within other sites' pages. */
  get isLasting(): boolean {
    try {
      return localStorage.length >= 0;
    } catch {
      return false;
    }
  }

  private get(what: string): string | null {
    const name = this.name(what);
    return FORGETTING.get(name) ?? (this.isLasting ? localStorage.getItem(name) : null);
  }

  private read(what: string): unknown {
    try {
      return JSON.parse(this.get(what) ?? "null");
    } catch {
      return null;
    }
  }

  private put(what: string, text: string | null): void {
    const name = this.name(what);
    FORGETTING.delete(name);
    try {
      if (text === null) localStorage.removeItem(name);
      else localStorage.setItem(name, text);
    } catch {
      if (text !== null) FORGETTING.set(name, text);
    }
  }
}
