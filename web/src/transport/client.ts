/** Requests to the gateway: who asks, how long it may take, and what its refusals mean. */

import { record } from "../protocol/wire";

/** Where the credential of a request comes from. */
export interface Credentials {
  /** The headers that tell who asks; `isChange`: for a request that changes something. */
  headers(isChange: boolean): Readonly<Record<string, string>>;
  /** Try for a new credential, without bothering anybody. Whether there is one. */
  refresh(): Promise<boolean>;
}

/** The gateway refused; `message` is a sentence for people, `code` a stable word. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly requestId: string | null,
    readonly retryAfterSeconds: number | null,
  ) {
    super(message);
  }

  /** Whether the same request may be accepted later. */
  get isPassing(): boolean {
    return this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** There was no answer: no network, no server, or no patience left. */
export class Unreachable extends Error {}

export interface Asked {
  readonly method?: "GET" | "POST" | "PATCH" | "PUT" | "DELETE";
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Give up after so long; 0: never, for streams. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 30_000;

export class Client {
  constructor(
    private readonly credentials: Credentials,
    private readonly onExpired: () => void,
  ) {}

  /** The answer's JSON. Throws Refused, Unreachable, or the signal's reason. */
  async json(path: string, asked: Asked = {}): Promise<unknown> {
    const answer = await this.ask(path, asked);
    try {
      return await answer.json();
    } catch (error) {
      asked.signal?.throwIfAborted();
      throw new Unreachable("the answer broke off", { cause: error });
    }
  }

  /** An answer with a status of success; refused credentials are renewed once. Throws as `json`. */
  async ask(path: string, asked: Asked = {}): Promise<Response> {
    const first = await this.send(path, asked);
    if (first.status !== 401 && first.status !== 403) return accept(first); // 403: the word against forgery has changed
    const second = (await this.credentials.refresh()) ? await this.send(path, asked) : first;
    if (second.status === 401) this.onExpired();
    return accept(second);
  }

  /** Send a form; `onProgress` is told how much of it is sent, as a part of 1. Throws as `json`. */
  async upload(path: string, form: FormData, onProgress: (part: number) => void, signal: AbortSignal): Promise<unknown> {
    const send = (): Promise<Response> => sendForm(path, form, this.credentials.headers(true), onProgress, signal);
    const first = await send();
    const isRefused = first.status === 401 || first.status === 403;
    const answer = isRefused && (await this.credentials.refresh()) ? await send() : first;
    if (answer.status === 401) this.onExpired();
    return (await accept(answer)).json();
  }

  private async send(path: string, { method = "GET", body, headers, signal, timeoutMs = TIMEOUT_MS }: Asked): Promise<Response> {
    const signals = [signal, timeoutMs > 0 ? AbortSignal.timeout(timeoutMs) : undefined].filter((each) => each !== undefined);
    const init: RequestInit = {
      method,
      headers: {
        ...this.credentials.headers(method !== "GET"),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: signals.length > 0 ? AbortSignal.any(signals) : null,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    try {
      return await fetch(path, init);
    } catch (error) {
      signal?.throwIfAborted();
      throw new Unreachable("the gateway did not answer", { cause: error });
    }
  }
}

/** Only XMLHttpRequest tells how an upload goes. */
function sendForm(
  path: string,
  form: FormData,
  headers: Readonly<Record<string, string>>,
  onProgress: (part: number) => void,
  signal: AbortSignal,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onProgress(total > 0 ? loaded / total : 0);
    request.onload = () => {
      const told = ["retry-after", "x-request-id"].map((name) => [name, request.getResponseHeader(name)] as const);
      const known = told.filter((header): header is readonly [string, string] => header[1] !== null);
      resolve(new Response(request.responseText, { status: request.status, headers: known.map(([name, value]) => [name, value]) }));
    };
    request.onerror = () => reject(new Unreachable("the upload broke off"));
    request.onabort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", () => request.abort(), { once: true });
    signal.throwIfAborted();
    request.send(form);
  });
}

async function accept(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  const error = record(record(await answer.json().catch(() => null))["error"]);
  const said = (name: string): string | null => (typeof error[name] === "string" ? error[name] : null);
  const seconds = Number.parseFloat(answer.headers.get("retry-after") ?? "");
  throw new Refused(
    answer.status,
    said("code") ?? said("error_code") ?? `http_${answer.status}`,
    said("message") ?? said("error_message") ?? "",
    answer.headers.get("x-request-id") ?? said("request_id"),
    Number.isFinite(seconds) ? seconds : null,
  );
}
