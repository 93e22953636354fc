/**
 * Brings messages to the gateway, one after another, each once: under its key it may be sent any number of times. What
 * could not be sent is kept in the browser, and tried again when there is reason to hope.
 */

import type { WireResponse } from "../protocol/wire";
import type { Api, ResponseBody } from "../transport/api";
import type { Kept, Unsent } from "./kept";
import type { Problem } from "./model";
import { isPassing, problemOf } from "./problems";

const WAIT_MAX_MS = 120_000; // for longer than that nobody looks

export interface Deliveries {
  readonly onTrying: (key: string) => void;
  readonly onAccepted: (key: string, response: WireResponse) => void;
  readonly onProblem: (key: string, problem: Problem) => void;
}

export class Outbox {
  private queue: Promise<void> = Promise.resolve();
  private readonly underWay = new Set<string>();
  private readonly delivered = new Map<string, WireResponse>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly api: Api,
    private readonly kept: Kept,
    private readonly deliveries: Deliveries,
  ) {}

  /** What is kept for this conversation. */
  of(conversationId: string | null): readonly Unsent[] {
    return this.kept.outbox().filter((each) => each.conversationId === conversationId);
  }

  send(unsent: Unsent): void {
    this.kept.keepUnsent(unsent);
    this.enqueue(unsent.key);
  }

  retry(key: string): void {
    this.enqueue(key);
  }

  retryAll(): void {
    for (const { key } of this.kept.outbox()) this.enqueue(key);
  }

  drop(key: string): void {
    this.kept.dropUnsent(key);
  }

  /** Forget what was planned; what is kept stays. */
  close(): void {
    clearTimeout(this.timer);
  }

  private enqueue(key: string): void {
    if (this.underWay.has(key)) return;
    this.underWay.add(key);
    this.queue = this.queue.then(() => this.deliver(key)).finally(() => this.underWay.delete(key));
  }

  private async deliver(key: string): Promise<void> {
    const unsent = this.kept.outbox().find((each) => each.key === key);
    if (!unsent) return;
    const placed = this.placed(unsent);
    this.deliveries.onTrying(key);
    if (placed !== unsent) this.kept.keepUnsent(placed);
    try {
      const response = await this.api.createResponse(key, placed.body);
      this.delivered.set(key, response);
      this.kept.dropUnsent(key);
      this.deliveries.onAccepted(key, response);
    } catch (error) {
      this.failed(key, problemOf(error));
    }
  }

  private failed(key: string, problem: Problem): void {
    this.deliveries.onProblem(key, problem);
    const waitMs = (problem.retryAt ?? 0) - Date.now();
    if (!isPassing(problem) || problem.retryAt === null || waitMs > WAIT_MAX_MS) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.retryAll(), Math.max(0, waitMs));
  }

  /** With the response that it follows, once the message before it was accepted. */
  private placed(unsent: Unsent): Unsent {
    const before = unsent.follows === null ? undefined : this.delivered.get(unsent.follows);
    if (!before) return unsent;
    const body: ResponseBody = { ...unsent.body, previous_response_id: before.id };
    return { ...unsent, follows: null, conversationId: before.conversationId, body };
  }
}
