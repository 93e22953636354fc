/** From what was thrown to what can be said. */

import { Refused } from "../transport/client";
import type { Problem } from "./model";

export function problemOf(error: unknown, now = Date.now()): Problem {
  if (!(error instanceof Refused)) {
    return { kind: navigator.onLine ? "unreachable" : "offline", message: "", requestId: null, retryAt: null };
  }
  const seconds = error.retryAfterSeconds;
  const facts = { message: error.message, requestId: error.requestId, retryAt: seconds === null ? null : now + seconds * 1000 };
  if (error.status === 401) return { kind: "expired", ...facts };
  if (error.status === 404) return { kind: "gone", ...facts };
  if (error.status === 429) return { kind: "limited", ...facts };
  return { kind: error.isPassing ? "busy" : "refused", ...facts };
}

/** Whether trying again by itself makes sense. */
export function isPassing(problem: Problem): boolean {
  return problem.kind !== "refused" && problem.kind !== "gone";
}
