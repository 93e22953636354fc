/** The list of conversations: pages of it, a search, and what changes in it. */

import type { Conversation } from "../protocol/wire";
import type { Api } from "../transport/api";
import type { ListState, State } from "./model";
import type { Store } from "./store";

const SEARCH_DELAY_MS = 200;

export class Conversations {
  private asked = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly store: Store<State>,
    private readonly api: Api,
  ) {}

  /** Load the first page anew; what is shown stays until it is there. */
  async reload(): Promise<void> {
    clearTimeout(this.timer);
    const asked = ++this.asked;
    try {
      const page = await this.api.conversations(this.state, null);
      if (asked !== this.asked) return;
      // What was scrolled to stays, if the first page has not changed places with it.
      const fresh = new Set(page.data.map((each) => each.id));
      const isSame = this.state.phase === "ready" && this.state.conversations.some((each) => fresh.has(each.id)) && page.hasMore;
      const rest = isSame ? this.state.conversations.filter((each) => !fresh.has(each.id) && each.updatedAt < (page.data.at(-1)?.updatedAt ?? 0)) : [];
      this.show({ phase: "ready", conversations: [...page.data, ...rest], hasMore: page.hasMore, isLoadingMore: false });
    } catch {
      if (asked === this.asked && this.state.phase === "loading") this.show({ phase: "failed" });
    }
  }

  async loadMore(): Promise<void> {
    const { hasMore, isLoadingMore, conversations, phase } = this.state;
    const last = conversations.at(-1);
    if (!hasMore || isLoadingMore || phase !== "ready" || !last) return;
    const asked = this.asked;
    this.show({ isLoadingMore: true });
    try {
      const page = await this.api.conversations(this.state, last.id);
      if (asked !== this.asked) return;
      const known = new Set(this.state.conversations.map((each) => each.id));
      const more = page.data.filter((each) => !known.has(each.id));
      this.show({ conversations: [...this.state.conversations, ...more], hasMore: page.hasMore, isLoadingMore: false });
    } catch {
      if (asked === this.asked) this.show({ isLoadingMore: false });
    }
  }

  search(text: string): void {
    this.show({ search: text });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      void this.reload();
    }, SEARCH_DELAY_MS);
  }

  showArchive(isArchived: boolean): void {
    this.show({ isArchived, phase: "loading", conversations: [] });
    void this.reload();
  }

  /** A conversation as it is now: to its place in the list, if it belongs there. */
  put(conversation: Conversation): void {
    const { conversations, search, isArchived, phase } = this.state;
    if (phase !== "ready") return;
    const before = conversations.find((each) => each.id === conversation.id);
    if (conversation.isArchived !== isArchived) return this.remove(conversation.id);
    if (search.trim()) {
      if (before) this.show({ conversations: conversations.map((each) => (each === before ? { ...conversation, match: before.match } : each)) });
      return;
    }
    const others = conversations.filter((each) => each.id !== conversation.id);
    const place = others.findIndex((each) => each.updatedAt <= conversation.updatedAt);
    const isBeyond = place === -1 && this.state.hasMore;
    if (isBeyond) return this.show({ conversations: others });
    this.show({ conversations: others.toSpliced(place === -1 ? others.length : place, 0, conversation) });
  }

  remove(id: string): void {
    this.show({ conversations: this.state.conversations.filter((each) => each.id !== id) });
  }

  private get state(): ListState {
    return this.store.get().list;
  }

  private show(change: Partial<ListState>): void {
    this.store.set({ list: { ...this.state, ...change } });
  }
}
