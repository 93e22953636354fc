/** A dialog over the page. It gives the focus back where it came from. */

import { type ReactNode, useEffect, useId, useRef } from "react";

import { useWords } from "../i18n";
import { IconButton } from "./parts";

interface DialogProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly className?: string;
  readonly children: ReactNode;
}

/** Open as long as it is there; Escape, its button and a click beside it close it. */
export function Dialog({ title, onClose, className = "", children }: DialogProps): ReactNode {
  const words = useWords();
  const dialog = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  useEffect(() => {
    if (!dialog.current?.open) dialog.current?.showModal();
  }, []);
  const close = (): void => dialog.current?.close();
  return (
    <dialog
      ref={dialog}
      className={`dialog ${className}`}
      aria-labelledby={titleId}
      onClose={onClose}
      onClick={(event) => {
        if (event.target === dialog.current) close();
      }}
    >
      <div className="dialog-content">
        <header>
          <h2 id={titleId} dir="auto">
            {title}
          </h2>
          <IconButton icon="close" label={words.close} onClick={close} />
        </header>
        {children}
      </div>
    </dialog>
  );
}
