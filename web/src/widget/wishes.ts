/** What the host page asks of the widget, from the address of its frame. All of it is checked: anybody can write one. */

export interface Wishes {
  /** The origin of the host page, as it says itself. Null: this is in no frame, or in one of another origin. */
  readonly host: string | null;
  readonly title: string | null;
  readonly theme: "light" | "dark" | null;
  /** Such as #1a2b3c. */
  readonly accent: string | null;
  readonly language: string | null;
  readonly agent: string | null;
}

const TITLE_CHARS_MAX = 60;

/** `ancestor` is the origin of the page around us where the browser tells it. */
export function readWishes(query: URLSearchParams, ancestor: string | undefined): Wishes {
  const asked = (name: string, form: RegExp): string | null => form.exec(query.get(name) ?? "")?.[0] ?? null;
  const host = originOf(query.get("host") ?? "");
  return {
    host: ancestor === undefined || ancestor === host ? host : null,
    title: query.get("title")?.trim().slice(0, TITLE_CHARS_MAX) || null,
    theme: asked("theme", /^(?:light|dark)$/) as Wishes["theme"],
    accent: asked("accent", /^#[0-9a-f]{6}$/i),
    language: asked("language", /^[a-z]{2,3}(?:-[a-z0-9]{2,8})*$/i),
    agent: asked("agent", /^[\w.-]{1,64}$/),
  };
}

/** `text` if it is the origin of a page of the web, in its own spelling; never `*` or `null`. */
function originOf(text: string): string | null {
  if (!/^https?:/.test(text) || !URL.canParse(text)) return null;
  const { origin } = new URL(text);
  return origin === text ? origin : null;
}
