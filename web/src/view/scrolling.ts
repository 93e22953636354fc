/**
 * Keeps a reader where the reader wants to be: at the end as long as that is where they are, and anywhere else without
 * moving by a pixel, whatever comes below or is loaded above.
 */

import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

const END_PX = 32; // so near to the end counts as at the end

export interface Scrolling {
  readonly frame: RefObject<HTMLDivElement | null>;
  readonly content: RefObject<HTMLDivElement | null>;
  readonly isAtEnd: boolean;
  /** Something came below while the reader was elsewhere. */
  readonly hasNews: boolean;
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
  const before = useRef({ thread, oldest, newest, height: 0 });

  const pin = useCallback((isNow: boolean): void => {
    isPinned.current = isNow;
    setAtEnd(isNow);
    if (isNow) setNews(false);
  }, []);

  const toEnd = useCallback((): void => {
    pin(true);
    const { current } = frame;
    if (current) current.scrollTop = current.scrollHeight;
  }, [pin]);

  const toRow = useCallback(
    (row: Element): void => {
      pin(false);
      row.scrollIntoView({ block: "center" });
    },
    [pin],
  );

  useLayoutEffect(() => {
    const box = frame.current;
    if (!box) return;
    const last = before.current;
    if (last.thread !== thread) toEnd();
    else if (last.oldest !== oldest && last.newest === newest && !isPinned.current) box.scrollTop += box.scrollHeight - last.height;
    before.current = { thread, oldest, newest, height: box.scrollHeight };
  }, [thread, oldest, newest, toEnd]);

  useEffect(() => {
    const box = frame.current;
    const inner = content.current;
    if (!box || !inner) return;
    let height = inner.clientHeight;
    const observer = new ResizeObserver(() => {
      const grown = inner.clientHeight - height;
      height = inner.clientHeight;
      if (isPinned.current) box.scrollTop = box.scrollHeight;
      else if (grown > 0) setNews(true);
      before.current.height = box.scrollHeight;
    });
    observer.observe(inner);
    observer.observe(box);
    const end = (): boolean => box.scrollHeight - box.scrollTop - box.clientHeight <= END_PX;
    let isDragging = false;
    const onScroll = (): void => {
      if (end()) {
        if (!isPinned.current) pin(true);
        return;
      }
      // Where the content has just changed, it moved and not the reader; the observer sees to that.
      const isReader = isDragging || box.scrollHeight === before.current.height;
      if (isPinned.current && isReader) pin(false);
    };
    const onPointer = (event: PointerEvent): void => {
      isDragging = event.type === "pointerdown" && event.target === box; // the scroll bar is the box's own
    };
    // Let go before the scrolling itself is told of: the next word would else pull the reader back.
    const onWheel = (event: WheelEvent): void => {
      if (event.deltaY < 0 && box.scrollTop > 0) pin(false);
    };
    const onTouch = (): void => {
      if (!end()) pin(false);
    };
    const onKey = (event: KeyboardEvent): void => {
      if (["PageUp", "Home", "ArrowUp"].includes(event.key) && box.scrollTop > 0) pin(false);
    };
    box.addEventListener("scroll", onScroll, { passive: true });
    box.addEventListener("wheel", onWheel, { passive: true });
    box.addEventListener("touchmove", onTouch, { passive: true });
    box.addEventListener("keydown", onKey);
    box.addEventListener("pointerdown", onPointer);
    addEventListener("pointerup", onPointer);
    return () => {
      observer.disconnect();
      box.removeEventListener("scroll", onScroll);
      box.removeEventListener("wheel", onWheel);
      box.removeEventListener("touchmove", onTouch);
      box.removeEventListener("keydown", onKey);
      box.removeEventListener("pointerdown", onPointer);
      removeEventListener("pointerup", onPointer);
    };
  }, [pin, thread]);

  return { frame, content, isAtEnd, hasNews, toEnd, toRow };
}
