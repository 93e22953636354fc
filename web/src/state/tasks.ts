/** The to-do list beside the chat. */

import type { Api } from "../transport/api";
import type { State } from "./model";
import type { Store } from "./store";

export class Tasks {
  private asked = 0;

  constructor(
    private readonly store: Store<State>,
    private readonly api: Api,
  ) {}

  async reload(): Promise<void> {
    const asked = ++this.asked;
    try {
      const page = await this.api.tasks(this.store.get().userId);
      if (asked === this.asked) this.store.set({ tasks: { phase: "ready", ...page } });
    } catch {
      const { tasks } = this.store.get();
      if (asked === this.asked && tasks.phase === "loading") this.store.set({ tasks: { ...tasks, phase: "failed" } });
    }
  }

  /** Tick it off, or open it again: shown at once, and taken back if it cannot be done. */
  async complete(id: string, isCompleted: boolean): Promise<void> {
    const { tasks, userId } = this.store.get();
    this.asked += 1;
    this.store.set({ tasks: { ...tasks, tasks: tasks.tasks.map((task) => (task.id === id ? { ...task, isCompleted } : task)) } });
    await this.api.completeTask(userId, id, isCompleted).catch(() => undefined);
    await this.reload();
  }
}
