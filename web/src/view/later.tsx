/** Parts of the page that few visits need: fetched when they are first wanted. */

import { type ComponentType, type ReactNode, useEffect, useState } from "react";

import { useApp } from "./context";

export interface LaterProps {
  readonly onClose: () => void;
}

const PARTS = {
  settings: async () => (await import("./settings")).SettingsDialog,
  share: async () => (await import("./share")).ShareDialog,
  shared: async () => (await import("./shared")).SharedPage,
} satisfies Record<string, () => Promise<ComponentType<LaterProps>>>;

export type LaterName = keyof typeof PARTS;

/** Nothing until it is there; where it cannot be fetched, that is said, and it counts as closed. */
export function Later({ name, onClose }: LaterProps & { readonly name: LaterName }): ReactNode {
  const app = useApp();
  const [part, setPart] = useState<{ readonly Part: ComponentType<LaterProps> } | null>(null);
  useEffect(() => {
    let isWanted = true;
    PARTS[name]().then(
      (Part) => {
        if (isWanted) setPart({ Part });
      },
      () => {
        if (!isWanted) return;
        app.notify("failed", "");
        onClose();
      },
    );
    return () => {
      isWanted = false;
    };
  }, [app, name]);
  return part && <part.Part onClose={onClose} />;
}
