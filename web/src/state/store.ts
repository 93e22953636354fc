/** One value that changes, and who wants to know. */

import { useSyncExternalStore } from "react";

export class Store<S extends object> {
  private readonly listeners = new Set<() => void>();

  constructor(private state: S) {}

  readonly get = (): S => this.state;

  /** Put these fields in place; whoever looks at them is told. */
  readonly set = (change: Partial<S>): void => {
    this.state = { ...this.state, ...change };
    for (const listener of this.listeners) listener();
  };

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };
}

/** A part of the store, rendered again when it is another value. `select` must return what the state holds. */
export function useSelected<S extends object, T>(store: Store<S>, select: (state: S) => T): T {
  return useSyncExternalStore(store.subscribe, () => select(store.get()));
}
