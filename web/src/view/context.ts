/** How components reach the page's parts and its state. */

import { createContext, useContext } from "react";

import type { App } from "../state/app";
import type { State } from "../state/model";
import type { Preferring } from "../state/preferences";
import { useSelected } from "../state/store";

export const AppContext = createContext<App | null>(null);
export const PreferringContext = createContext<Preferring | null>(null);

export function useApp(): App {
  const app = useContext(AppContext);
  if (!app) throw new Error("outside of the page");
  return app;
}

export function usePreferring(): Preferring {
  const preferring = useContext(PreferringContext);
  if (!preferring) throw new Error("outside of the page");
  return preferring;
}

/** A part of the state; the component is rendered again when it changes. */
export function useShown<T>(select: (state: State) => T): T {
  return useSelected(useApp().store, select);
}
