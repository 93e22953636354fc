/** Counts the answers that came while the widget was closed. */

import type { Transcript, Turn } from "../protocol/transcript";

const NEWS: ReadonlySet<Turn["status"]> = new Set(["completed", "incomplete", "failed"]);
const SHOWN_MAX = 9;

export class Unread {
  private seen: ReadonlySet<string> | null = null;

  /** The widget is closed; of `transcript` everything was seen. */
  begin(transcript: Transcript): void {
    this.seen = new Set(transcript.filter(isNews).map((turn) => turn.id));
  }

  /** The widget is open. */
  end(): void {
    this.seen = null;
  }

  count(transcript: Transcript): number {
    const { seen } = this;
    return seen ? transcript.filter((turn) => isNews(turn) && !seen.has(turn.id)).length : 0;
  }
}

/** As it is written on a badge. */
export function badgeOf(count: number): string {
  if (count === 0) return "";
  return count > SHOWN_MAX ? `${SHOWN_MAX}+` : `${count}`;
}

function isNews(turn: Turn): boolean {
  return NEWS.has(turn.status);
}
