/** Server-sent events over fetch: comments count as life, silence as loss, and only the end is the end. */

import { createParser } from "eventsource-parser";

import { type Client, Refused } from "./client";

const SILENCE_MS = 45_000; // three heartbeats
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const EVENT_CHARS_MAX = 32 * 2 ** 20; // the last event holds the whole response

/** How a stream is doing: `live` once something came, `lost` while it is being opened again. */
export type StreamState = "live" | "lost";

/** `ended`: there will be no more; `gone`: there is no such thing any more; `refused`: not for these credentials. */
export type StreamEnd = "ended" | "gone" | "refused";

export interface Following {
  /** The address to ask next: it depends on what was applied so far. */
  readonly path: () => string;
  /** Called once when it is open, then with the JSON of each event. Returning `stop` closes, `reopen` asks again. */
  readonly onOpen?: () => void;
  readonly onEvent: (event: unknown) => "go on" | "stop" | "reopen";
  readonly onState: (state: StreamState) => void;
  readonly signal: AbortSignal;
}

/** Follow a stream until it has ended, through any number of connections. Throws the signal's reason when aborted. */
export async function follow(client: Client, following: Following): Promise<StreamEnd> {
  for (let failures = 0; ; ) {
    let waitMs = 0;
    try {
      const outcome = await listen(client, following, () => {
        failures = 0;
      });
      if (outcome !== "cut") return outcome;
    } catch (error) {
      following.signal.throwIfAborted();
      if (error instanceof Refused && !error.isPassing) return error.status === 401 ? "refused" : "gone";
      if (error instanceof Refused) waitMs = (error.retryAfterSeconds ?? 0) * 1000;
    }
    following.onState("lost");
    waitMs = Math.max(waitMs, backoff(failures));
    failures += 1;
    await pause(waitMs, following.signal);
  }
}

/** How long to wait after so many failures in a row: doubling, and never in step with other tabs. */
export function backoff(failures: number, random: () => number = Math.random): number {
  const most = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** failures);
  return most / 2 + random() * (most / 2);
}

async function listen(client: Client, following: Following, onLife: () => void): Promise<StreamEnd | "cut"> {
  const connection = new AbortController();
  const signal = AbortSignal.any([following.signal, connection.signal]);
  let silence = setTimeout(() => connection.abort(), SILENCE_MS);
  let outcome: StreamEnd | "cut" | null = null;
  const parser = createParser({
    maxBufferSize: EVENT_CHARS_MAX,
    onEvent: ({ data }) => {
      if (outcome !== null || data === "[DONE]") return;
      onLife();
      const verdict = following.onEvent(parsed(data));
      if (verdict === "stop") outcome = "ended";
      if (verdict === "reopen") outcome = "cut";
    },
  });
  try {
    const answer = await client.ask(following.path(), { signal, timeoutMs: 0, headers: { accept: "text/event-stream" } });
    following.onState("live");
    following.onOpen?.();
    const reader = (answer.body ?? new ReadableStream<Uint8Array>()).pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
    while (outcome === null) {
      const { done, value } = await reader.read();
      if (done) return outcome ?? "cut";
      clearTimeout(silence);
      silence = setTimeout(() => connection.abort(), SILENCE_MS);
      parser.feed(value);
    }
    return outcome;
  } finally {
    clearTimeout(silence);
    connection.abort();
  }
}

function parsed(data: string): unknown {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}

/** Wait, but no longer than until the network is back. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      globalThis.removeEventListener?.("online", end);
      signal.removeEventListener("abort", end);
      if (signal.aborted) reject(signal.reason as Error);
      else resolve();
    };
    const timer = setTimeout(end, ms);
    globalThis.addEventListener?.("online", end);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}
