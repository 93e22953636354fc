/**
 * Keeps a reader where the reader wants to be: at the end as long as that is where they are, and anywhere else without
 * moving by a pixel, whatever comes below or is loaded above.
 */

import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

const END_PX = 32; // so near to the end counts as at the end
const AWAY_KEYS: ReadonlySet<string> = new Set(["PageUp", "Home", "ArrowUp"]);
const ENDWARD_KEYS: ReadonlySet<string> = new Set(["PageDown", "End", "ArrowDown"]);

/** Where a reader is: how far from the beginning, and how far from the end. */
interface Place {
  readonly top: number;
  readonly fromEnd: number;
}

function placeOf(box: Element): Place {
  return { top: box.scrollTop, fromEnd: box.scrollHeight - box.scrollTop - box.clientHeight };
}

export type Movement = "to the end" | "away" | "none";

/**
 * What the reader did between two places. What grows below or above changes only one of the two distances, or both in
 * the same direction; what shrinks can only push up. And a place that was noted by whoever wrote it is no movement.
 */
export function movementOf(before: Place, now: Place): Movement {
  const isAtEnd = now.fromEnd <= END_PX;
  if (isAtEnd && now.top > before.top && now.fromEnd < before.fromEnd) return "to the end";
  if (!isAtEnd && now.top < before.top && now.fromEnd > before.fromEnd) return "away";
  return "none";
}

export interface Scrolling {
  readonly frame: RefObject<HTMLDivElement | null>;
  readonly content: RefObject<HTMLDivElement | null>;
  readonly isAtEnd: boolean;
  /** Something came below while the reader was elsewhere. */
  readonly hasNews: boolean;
  /** Of the content, in pixels. */
  readonly width: number;
  readonly toEnd: () => void;
  /** Bring a row of the content into sight, and stay there. */
  readonly toRow: (row: Element) => void;
}

/** `oldest` names the first row: when it changes, and the last one does not, rows were put before. */
export function useScrolling(thread: string, oldest: string, newest: string): Scrolling {
  const frame = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const isPinned = useRef(true);
  const [isAtEnd, setAtEnd] = useState(true);
  const [hasNews, setNews] = useState(false);
  const [width, setWidth] = useState(0);
  const before = useRef({ thread, oldest, newest, height: 0 });
  const place = useRef<Place>({ top: 0, fromEnd: 0 });

  const pin = useCallback((isNow: boolean): void => {
    if (isPinned.current !== isNow) {
      isPinned.current = isNow;
      setAtEnd(isNow);
    }
    if (isNow) setNews(false);
  }, []);

  /** Scroll by `write`, which no event that tells of it later can be mistaken for a movement of the reader's. */
  const move = useCallback((write: (box: HTMLElement) => void): void => {
    const box = frame.current;
    if (!box) return;
    write(box);
    place.current = placeOf(box);
  }, []);

  const toEnd = useCallback((): void => {
    pin(true);
    move(showEnd);
  }, [pin, move]);

  const toRow = useCallback(
    (row: Element): void => {
      pin(false);
      move(() => row.scrollIntoView({ block: "center" }));
    },
    [pin, move],
  );

  useLayoutEffect(() => {
    const last = before.current;
    if (last.thread !== thread) toEnd();
    else if (last.oldest !== oldest && last.newest === newest && !isPinned.current) move((box) => (box.scrollTop += box.scrollHeight - last.height));
    before.current = { thread, oldest, newest, height: frame.current?.scrollHeight ?? 0 };
  }, [thread, oldest, newest, toEnd, move]);

  useEffect(() => {
    const box = frame.current;
    const inner = content.current;
    if (!box || !inner) return;
    let height = inner.clientHeight;
    const observer = new ResizeObserver(() => {
      const grown = inner.clientHeight - height;
      height = inner.clientHeight;
      setWidth(inner.clientWidth);
      if (box.scrollHeight <= box.clientHeight) pin(true); // nobody can be elsewhere
      else if (!isPinned.current && grown > 0) setNews(true);
      if (isPinned.current) showEnd(box);
      place.current = placeOf(box);
      before.current.height = box.scrollHeight;
    });
    observer.observe(inner);
    observer.observe(box);
    const onScroll = (): void => {
      const now = placeOf(box);
      const movement = movementOf(place.current, now);
      place.current = now;
      if (movement !== "none") pin(movement === "to the end");
    };
    // What the reader wants is known before the scrolling itself is told of: the next word would else pull them back.
    const want = (isAway: boolean): void => {
      if (isAway && box.scrollTop > 0) pin(false);
      if (!isAway && placeOf(box).fromEnd <= END_PX) pin(true);
    };
    const onWheel = (event: WheelEvent): void => {
      if (event.deltaY !== 0) want(event.deltaY < 0);
    };
    let finger = 0;
    const onTouch = (event: TouchEvent): void => {
      const { clientY } = event.touches[0] ?? { clientY: finger };
      if (event.type === "touchmove" && clientY !== finger) want(clientY > finger);
      finger = clientY;
    };
    const onKey = (event: KeyboardEvent): void => {
      if (AWAY_KEYS.has(event.key) || ENDWARD_KEYS.has(event.key)) want(AWAY_KEYS.has(event.key));
    };
    box.addEventListener("scroll", onScroll, { passive: true });
    box.addEventListener("wheel", onWheel, { passive: true });
    box.addEventListener("touchstart", onTouch, { passive: true });
    box.addEventListener("touchmove", onTouch, { passive: true });
    box.addEventListener("keydown", onKey);
    return () => {
      observer.disconnect();
      box.removeEventListener("scroll", onScroll);
      box.removeEventListener("wheel", onWheel);
      box.removeEventListener("touchstart", onTouch);
      box.removeEventListener("touchmove", onTouch);
      box.removeEventListener("keydown", onKey);
    };
  }, [pin, thread]);

  return { frame, content, isAtEnd, hasNews, width, toEnd, toRow };
}

function showEnd(box: HTMLElement): void {
  box.scrollTop = box.scrollHeight;
}
