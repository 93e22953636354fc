/** The page around the frame, as the frame knows it: one window of one origin, and nobody else. */

import type { FromFrame, FromHost } from "./messages";

const TOKEN_MS = 15_000; // so long may a host take to make a token

export class Host {
  private asked = 0;
  private readonly waiting = new Map<number, (token: string | null) => void>();

  /** Called when the frame is opened and closed. */
  onShown: (isShown: boolean) => void = () => undefined;

  constructor(private readonly origin: string) {
    addEventListener("message", (event: MessageEvent<unknown>) => this.hear(event));
  }

  /** A token of the visitor's. Null: the host has none, or says nothing. */
  token(): Promise<string | null> {
    const id = ++this.asked;
    return new Promise((resolve) => {
      const answered = (token: string | null): void => {
        clearTimeout(timer);
        this.waiting.delete(id);
        resolve(token);
      };
      const timer = setTimeout(() => answered(null), TOKEN_MS);
      this.waiting.set(id, answered);
      this.say({ parley: "token?", id });
    });
  }

  close(): void {
    this.say({ parley: "close" });
  }

  /** Both empty: there is nothing new. */
  unread(badge: string, text: string): void {
    this.say({ parley: "unread", badge, text });
  }

  private say(message: FromFrame): void {
    // The browser delivers it to a window of that origin alone: whoever lied about it hears nothing.
    parent.postMessage(message, this.origin);
  }

  private hear({ origin, source, data }: MessageEvent<unknown>): void {
    if (origin !== this.origin || source !== parent) return;
    const message = data as Partial<FromHost> | null;
    if (message?.parley === "opened") this.onShown(true);
    if (message?.parley === "closed") this.onShown(false);
    if (message?.parley === "token" && typeof message.id === "number") {
      this.waiting.get(message.id)?.(typeof message.token === "string" ? message.token : null);
    }
  }
}
