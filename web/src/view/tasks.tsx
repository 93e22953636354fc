/** The to-do list, beside the chat that works on it. */

import type { ReactNode } from "react";

import type { Task } from "../protocol/wire";
import { dayOf, useLanguage, useWords } from "../i18n";
import { useApp, useShown } from "./context";
import { IconButton, Skeleton } from "./parts";

export function TasksPanel({ onClose }: { readonly onClose: () => void }): ReactNode {
  const words = useWords();
  const app = useApp();
  const { phase, tasks, total } = useShown((state) => state.tasks);
  const open = tasks.filter((task) => !task.isCompleted);
  const done = tasks.filter((task) => task.isCompleted);
  return (
    <aside className="tasks" aria-label={words.tasks.title}>
      <header>
        <h2>{words.tasks.title}</h2>
        {phase === "ready" && <span className="note">{words.tasks.open(open.length)}</span>}
        <IconButton icon="close" label={words.tasks.hide} onClick={onClose} />
      </header>
      {phase === "loading" && <Skeleton />}
      {phase === "failed" && (
        <div role="alert" className="empty">
          <p>{words.tasks.failed}</p>
          <button type="button" onClick={() => void app.parts.tasks.reload()}>
            {words.tryAgain}
          </button>
        </div>
      )}
      {phase === "ready" && tasks.length === 0 && <p className="empty">{words.tasks.empty}</p>}
      <TaskList tasks={open} />
      {done.length > 0 && <h3>{words.tasks.done}</h3>}
      <TaskList tasks={done} />
      {total > tasks.length && <p className="note">{words.tasks.more(total - tasks.length)}</p>}
    </aside>
  );
}

function TaskList({ tasks }: { readonly tasks: readonly Task[] }): ReactNode {
  if (tasks.length === 0) return null;
  return (
    <ul>
      {tasks.map((task) => (
        <TaskRow key={task.id} task={task} />
      ))}
    </ul>
  );
}

function TaskRow({ task }: { readonly task: Task }): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const app = useApp();
  const facts = [
    task.due ? words.tasks.due(dayOf(language, task.due)) : "",
    task.priority ? (words.tasks.priority[task.priority] ?? task.priority) : "",
  ].filter(Boolean);
  return (
    <li className={task.isCompleted ? "completed" : ""}>
      <label>
        <input type="checkbox" checked={task.isCompleted} onChange={(event) => void app.parts.tasks.complete(task.id, event.target.checked)} />
        <span dir="auto">
          {task.title}
          {facts.length > 0 && <small>{facts.join(" · ")}</small>}
        </span>
      </label>
    </li>
  );
}
