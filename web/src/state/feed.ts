/** What other tabs and devices do, from the feed of all the user's conversations. */

import { readTouched, type Touched } from "../protocol/wire";
import type { Client } from "../transport/client";
import { follow, type StreamState } from "../transport/stream";

export interface FeedEvents {
  /** It is open: what is read from now on misses nothing. */
  readonly onOpen: () => void;
  readonly onTouched: (touched: Touched) => void;
  readonly onState: (state: StreamState | "none") => void;
  readonly onExpired: () => void;
}

export class Feed {
  private connection: AbortController | null = null;

  constructor(
    private readonly client: Client,
    private readonly events: FeedEvents,
  ) {}

  start(): void {
    if (this.connection) return;
    const own = new AbortController();
    this.connection = own;
    void follow(this.client, {
      path: () => "/v1/events",
      onOpen: this.events.onOpen,
      onEvent: (value) => {
        const touched = readTouched(value);
        if (touched) this.events.onTouched(touched);
        return "go on";
      },
      onState: this.events.onState,
      signal: own.signal,
    })
      .then((end) => {
        if (this.connection !== own) return;
        this.connection = null;
        this.events.onState("none");
        if (end === "refused") this.events.onExpired();
      })
      .catch(() => undefined);
  }

  stop(): void {
    this.connection?.abort();
    this.connection = null;
    this.events.onState("none");
  }
}
