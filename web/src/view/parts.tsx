/** Small things that many components are made of. */

import { type ReactNode, useEffect, useRef, useState } from "react";

import { useWords } from "../i18n";
import { copyText } from "./clipboard";
import { useApp } from "./context";
import { Icon, type IconName } from "./icons";

interface IconButtonProps {
  readonly icon: IconName;
  readonly label: string;
  readonly onClick: () => void;
  readonly isPressed?: boolean;
  readonly isExpanded?: boolean;
  readonly isDisabled?: boolean;
  readonly className?: string;
}

/** A button that shows an icon; its label is read out, and shown where the pointer rests. */
export function IconButton({ icon, label, onClick, isPressed, isExpanded, isDisabled, className = "" }: IconButtonProps): ReactNode {
  return (
    <button
      type="button"
      className={`icon-button ${className}`}
      aria-label={label}
      title={label}
      aria-pressed={isPressed}
      aria-expanded={isExpanded}
      disabled={isDisabled}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}

const COPIED_MS = 2_000;
const SKELETON_AFTER_MS = 150;

/** Copies text, and says so for a moment. */
export function CopyButton({ text, label }: { readonly text: string; readonly label: string }): ReactNode {
  const words = useWords();
  const app = useApp();
  const [isCopied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async (): Promise<void> => {
    await copyText(text);
    setCopied(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setCopied(false), COPIED_MS);
  };
  return (
    <IconButton
      icon={isCopied ? "check" : "copy"}
      label={isCopied ? words.message.copied : label}
      onClick={() => void copy().catch(() => app.notify("failed", ""))}
    />
  );
}

/** Lines that stand for what is being loaded, once that takes so long that it shows. */
export function Skeleton({ lines = 3 }: { readonly lines?: number }): ReactNode {
  const words = useWords();
  const [isLate, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), SKELETON_AFTER_MS);
    return () => clearTimeout(timer);
  }, []);
  if (!isLate) return null;
  return (
    <div className="skeleton" role="status" aria-label={words.loading}>
      {Array.from({ length: lines }, (_, index) => (
        <span key={index} />
      ))}
    </div>
  );
}

/** The box of a message: as high as its text, up to a limit of the style's. */
export function Growing({ text, children }: { readonly text: string; readonly children: ReactNode }): ReactNode {
  return (
    <div className="growing" data-text={`${text}\n`}>
      {children}
    </div>
  );
}

/** Whether this Enter is meant: not the one that ends the input of a character. */
export function isPlainEnter(event: React.KeyboardEvent): boolean {
  // 229: Safari ends a composition before its Enter comes.
  return event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing && event.keyCode !== 229;
}
