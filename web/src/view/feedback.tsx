/** Whether an answer was good, and why. */

import { type ReactNode, useEffect, useRef, useState } from "react";

import type { Feedback } from "../protocol/wire";
import { useWords } from "../i18n";
import { useApp } from "./context";
import { IconButton } from "./parts";

const REASON_CHARS_MAX = 2_000;

/** Two thumbs; each a second time takes it back. After the first, a reason may be said. */
export function Thumbs({ responseId, feedback, onAsk }: { readonly responseId: string; readonly feedback: Feedback | null; readonly onAsk: (isAsked: boolean) => void }): ReactNode {
  const words = useWords();
  const app = useApp();
  const judge = (rating: Feedback["rating"]) => () => {
    const isTakenBack = feedback?.rating === rating;
    void app.judge(responseId, isTakenBack ? null : { rating, reason: "" });
    onAsk(!isTakenBack);
  };
  return (
    <span className="thumbs" role="group" aria-label={words.feedback.label}>
      <IconButton icon="good" label={words.feedback.good} isPressed={feedback?.rating === "positive"} onClick={judge("positive")} />
      <IconButton icon="bad" label={words.feedback.bad} isPressed={feedback?.rating === "negative"} onClick={judge("negative")} />
    </span>
  );
}

export function Reason({ responseId, feedback, onEnd }: { readonly responseId: string; readonly feedback: Feedback; readonly onEnd: () => void }): ReactNode {
  const words = useWords();
  const app = useApp();
  const [text, setText] = useState(feedback.reason);
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => box.current?.focus(), [feedback.rating]);
  const label = feedback.rating === "positive" ? words.feedback.reasonGood : words.feedback.reason;
  return (
    <form
      className="reason"
      onSubmit={(event) => {
        event.preventDefault();
        if (text.trim()) void app.judge(responseId, { ...feedback, reason: text.trim() });
        onEnd();
      }}
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        onEnd();
      }}
    >
      <input ref={box} value={text} dir="auto" maxLength={REASON_CHARS_MAX} aria-label={label} placeholder={`${label} (${words.feedback.reasonHint})`} onChange={(event) => setText(event.target.value)} />
      <button type="submit" disabled={!text.trim()}>
        {words.feedback.send}
      </button>
      <IconButton icon="close" label={words.close} onClick={onEnd} />
    </form>
  );
}
