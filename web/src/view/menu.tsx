/** A button with a few more behind it. */

import { type ReactNode, useEffect, useRef } from "react";

import { Icon, type IconName } from "./icons";

export interface Choice {
  readonly icon: IconName;
  readonly label: string;
  readonly onChosen: () => void;
  readonly isDangerous?: boolean;
}

/** Closed by a choice, by Escape, and by a click anywhere else. Opens upwards where there is no room below. */
export function Menu({ label, choices, className = "" }: { readonly label: string; readonly choices: readonly Choice[]; readonly className?: string }): ReactNode {
  const menu = useRef<HTMLDetailsElement>(null);
  const close = (): void => {
    if (menu.current) menu.current.open = false;
  };
  const place = (): void => {
    const shown = menu.current?.querySelector<HTMLElement>(".menu");
    if (!menu.current?.open || !shown) return;
    const end = (menu.current.closest(".list") ?? document.documentElement).getBoundingClientRect().bottom;
    shown.classList.toggle("upwards", menu.current.getBoundingClientRect().bottom + shown.offsetHeight > end);
  };
  useEffect(() => {
    const onPointer = (event: Event): void => {
      if (menu.current?.open && !menu.current.contains(event.target as Node)) close();
    };
    document.addEventListener("pointerdown", onPointer);
    return () => document.removeEventListener("pointerdown", onPointer);
  }, []);
  return (
    <details
      className={`menu-of ${className}`}
      ref={menu}
      onToggle={place}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !menu.current?.open) return;
        event.preventDefault();
        close();
        menu.current.querySelector("summary")?.focus();
      }}
    >
      <summary aria-label={label} title={label}>
        <Icon name="more" />
      </summary>
      <div className="menu">
        {choices.map(({ icon, label: name, onChosen, isDangerous }) => (
          <button
            key={name}
            type="button"
            className={isDangerous ? "danger" : ""}
            onClick={() => {
              close();
              menu.current?.querySelector("summary")?.focus();
              onChosen();
            }}
          >
            <Icon name={icon} />
            {name}
          </button>
        ))}
      </div>
    </details>
  );
}
