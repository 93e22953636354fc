/** Collects what comes, and hands it on once per frame; a tab that paints no frames gets it by a timer. */

const HIDDEN_MS = 250;

export class Frames<T> {
  private waiting: T[] = [];
  private cancel: (() => void) | null = null;

  constructor(private readonly apply: (batch: readonly T[]) => void) {}

  add(each: T): void {
    this.waiting.push(each);
    this.cancel ??= schedule(() => this.flush());
  }

  /** Hand on what there is, now. */
  flush(): void {
    this.cancel?.();
    this.cancel = null;
    const batch = this.waiting;
    this.waiting = [];
    if (batch.length > 0) this.apply(batch);
  }

  /** Forget what there is. */
  drop(): void {
    this.waiting = [];
    this.cancel?.();
    this.cancel = null;
  }
}

function schedule(run: () => void): () => void {
  if (document.hidden) {
    const timer = setTimeout(run, HIDDEN_MS);
    return () => clearTimeout(timer);
  }
  // A tab may be hidden before its next frame, which then never comes.
  const frame = requestAnimationFrame(run);
  const timer = setTimeout(run, HIDDEN_MS);
  return () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  };
}
