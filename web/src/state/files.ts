/** Stored files on their way here, two at a time: the gateway takes few of a user's at once. */

import type { Api } from "../transport/api";
import { Refused } from "../transport/client";

const AT_ONCE_MAX = 2;
const AGAIN_MS = 2_000;

export class Files {
  private underWay = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly api: Api) {}

  /** Throws what the request does, or the signal's reason. */
  async load(id: string, signal: AbortSignal): Promise<Blob> {
    if (this.underWay >= AT_ONCE_MAX) await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.underWay += 1;
    try {
      signal.throwIfAborted();
      return await this.loadNow(id, signal);
    } finally {
      this.underWay -= 1;
      this.waiting.shift()?.();
    }
  }

  private async loadNow(id: string, signal: AbortSignal): Promise<Blob> {
    try {
      return await this.api.file(id, signal);
    } catch (error) {
      if (!(error instanceof Refused && error.isPassing)) throw error;
      await new Promise((resolve) => setTimeout(resolve, (error.retryAfterSeconds ?? 0) * 1000 || AGAIN_MS));
      return this.api.file(id, signal);
    }
  }
}
