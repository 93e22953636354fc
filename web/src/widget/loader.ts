/**
 * What a host page loads: a button, and at its first use a frame with the widget. Nothing else is fetched before that.
 * All is in a shadow root, so that neither page can spoil the other's looks; styles are no element and no attribute, so
 * that a host's policy need not allow them. Small, as every page of a host pays for it: the build has a budget.
 */

import css from "./loader.css?inline";
import type { FromFrame, FromHost } from "./messages";

/** For the host's scripts, as `Parley`. */
interface Controls {
  open(): void;
  close(): void;
  /** Take everything away. The script may then be run again, as for another user. */
  destroy(): void;
}

declare global {
  interface Window {
    Parley?: Controls | undefined;
    /** For a page that gives tokens by a function of its own rather than at `data-token-url`. */
    ParleyWidget?: { getToken?: () => string | null | Promise<string | null> };
  }
}

const WORDS = {
  en: ["Open chat", "Close chat", "Not available right now."],
  de: ["Chat öffnen", "Chat schließen", "Gerade nicht erreichbar."],
};
const SILENCE_MS = 10_000; // a frame that says nothing for so long is not ours: refused, or not reached

function add<K extends keyof HTMLElementTagNameMap>(parent: ParentNode, tag: K, properties?: object): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
}

function start({ src, dataset }: HTMLScriptElement): Controls {
  const { origin } = new URL(src);
  const { language = document.documentElement.lang || navigator.language, title = "Chat", theme = "system" } = dataset;
  const [toOpen, toClose, failed] = WORDS[language.slice(0, 2) as "en"] ?? WORDS.en;
  const accent = dataset["accent"]?.match(/^#[0-9a-f]{6}$/i) ?? "#3f5bd8";
  const [left, right] = dataset["position"] === "left" ? ["20px", "auto"] : ["auto", "20px"];
  let frame: HTMLIFrameElement | undefined;
  let silence: ReturnType<typeof setTimeout>;

  const host = document.createElement("parley-widget");
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  // What is on the button is white, or black where the accent is light.
  sheet.replaceSync(
    `button{inset:auto ${right} 20px ${left};background:${accent};color:oklch(from ${accent} round(1.06 - l) 0 0)}dialog{inset:auto ${right} 92px ${left}}${css}`,
  );
  root.adoptedStyleSheets = [sheet];
  const dialog = add(root, "dialog", { ariaLabel: title });
  dialog.style.colorScheme = theme.replace("system", "light dark");
  const button = add(root, "button", { ariaHasPopup: "dialog" });
  add(button, "u");
  const badge = add(button, "b");
  const told = add(root, "i", { role: "status" });

  function post(message: FromHost): void {
    if (!dialog.className) frame?.contentWindow?.postMessage(message, origin);
  }

  function show(): void {
    const { open } = dialog;
    button.ariaExpanded = `${open}`;
    button.ariaLabel = `${open ? toClose : toOpen} ${told.textContent}`;
    post({ parley: open ? "opened" : "closed" });
  }

  function load(): void {
    dialog.textContent = "";
    dialog.className = "waiting";
    frame = add(dialog, "iframe", {
      title,
      allow: "clipboard-write",
      src: `${origin}/embed?${new URLSearchParams({ ...dataset, language, host: location.origin })}`,
    });
    silence = setTimeout(() => {
      dialog.textContent = failed ?? "";
      frame = undefined;
    }, SILENCE_MS);
  }

  function open(): void {
    if (!frame) load();
    dialog.close();
    if (matchMedia("(width<=480px),(height<=480px)").matches) dialog.showModal();
    else dialog.show();
    frame?.focus();
    show();
  }

  function close(): void {
    dialog.close();
    button.focus();
    show();
  }

  async function token(): Promise<string | null> {
    const { getToken } = window.ParleyWidget ?? {};
    if (getToken) return getToken();
    const answer = await fetch(dataset["tokenUrl"] ?? "", { method: "POST" });
    return ((await answer.json()) as { token: string }).token;
  }

  async function hear({ origin: from, source, data }: MessageEvent<FromFrame>): Promise<void> {
    if (from !== origin || source !== frame?.contentWindow) return;
    if (data.parley === "close") close();
    if (data.parley === "unread") {
      badge.textContent = data.badge;
      told.textContent = data.text;
      show();
    }
    if (data.parley === "token?") {
      clearTimeout(silence);
      dialog.className = "";
      if (dialog.open) frame?.focus();
      show();
      post({ parley: "token", id: data.id, token: await token().catch(() => null) });
    }
  }

  function attach(): void {
    if (!host.isConnected) document.body?.append(host);
  }
  // There may be no body yet; and some pages show another page by putting a new one in place.
  const watcher = new MutationObserver(attach);
  watcher.observe(document.documentElement, { childList: true });

  button.onclick = () => (dialog.open ? close() : open());
  dialog.oncancel = close;
  host.onkeydown = ({ key }) => {
    if (key === "Escape" && dialog.open) close();
  };
  addEventListener("message", hear);
  attach();
  show();

  return {
    open,
    close,
    destroy() {
      removeEventListener("message", hear);
      watcher.disconnect();
      clearTimeout(silence);
      host.remove();
      window.Parley = undefined;
    },
  };
}

window.Parley ??= start(document.currentScript as HTMLScriptElement);
