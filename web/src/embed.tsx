/** The widget within its frame: who it is for, how it is to look, and what it tells the host page. */

import { mount } from "./mount";
import "./styles/widget.css";

import { addressOf, App, goTo } from "./state/app";
import { Kept } from "./state/kept";
import { Preferring } from "./state/preferences";
import { Widget } from "./view/widget";
import { accentsOf } from "./widget/accent";
import { Host } from "./widget/host";
import { badgeOf, Unread } from "./widget/unread";
import { Visitor } from "./widget/visitor";
import { readWishes, type Wishes } from "./widget/wishes";

function dress({ theme, accent, title }: Wishes): void {
  const { dataset, style } = document.documentElement;
  if (theme) dataset["theme"] = theme;
  if (title) document.title = title;
  if (!accent) return;
  const { light, dark } = accentsOf(accent);
  style.setProperty("--accent", `light-dark(${light}, ${dark})`);
  style.setProperty("--accent-soft", "color-mix(in oklab, var(--accent) 14%, var(--paper))");
}

const RECENT_SECONDS = 86_400;

/** The conversation that was shown is shown again after a reload of the host page. */
function recall(userId: string): void {
  const id = new Kept(userId).shown();
  if (id && location.hash === "") history.replaceState(null, "", addressOf(id));
}

function keepPlace(app: App): void {
  let isFirstList = true;
  app.store.subscribe(() => {
    const { thread, session, list } = app.store.get();
    if (session !== "signed in") return;
    const { kept } = app.parts;
    kept.keepShown(thread.phase === "gone" ? null : thread.conversationId);
    if (!isFirstList || list.phase !== "ready") return;
    isFirstList = false;
    // Where the browser lets a frame keep nothing, the newest one is the best guess.
    const newest = list.conversations[0];
    const isRecent = newest && newest.updatedAt > Date.now() / 1000 - RECENT_SECONDS;
    if (isRecent && !kept.isLasting && thread.transcript.length === 0) goTo(addressOf(newest.id));
  });
  // A link that is followed would be a step in the history of the host page.
  addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[href^='#/']") : null;
    if (!link) return;
    event.preventDefault();
    goTo(link.getAttribute("href") ?? "");
  });
}

/** Tell the host what comes while the widget is closed. */
function countUnread(app: App, host: Host, preferring: Preferring): void {
  const unread = new Unread();
  let told = 0;
  let isOpen = true;
  const tell = (): void => {
    const count = unread.count(app.store.get().thread.transcript);
    if (count === told) return;
    told = count;
    host.unread(badgeOf(count), count > 0 ? preferring.store.get().language.words.widget.unread(count) : "");
  };
  host.onShown = (isShown) => {
    if (isShown) enter();
    if (isShown === isOpen) return; // the host says so more than once
    isOpen = isShown;
    if (isShown) unread.end();
    else unread.begin(app.store.get().thread.transcript);
    app.show(isShown);
    tell();
  };
  app.store.subscribe(tell);
}

/** Into the message box; on a phone its keyboard would cover what was just opened. */
function enter(): void {
  const box = matchMedia("(hover: hover)").matches ? document.getElementById("message") : null;
  (box ?? document.querySelector<HTMLElement>("h1"))?.focus();
}

function begin(): void {
  const wishes = readWishes(new URLSearchParams(location.search), location.ancestorOrigins?.[0]);
  const host = wishes.host ? new Host(wishes.host) : null;
  const preferring = new Preferring(wishes.language);
  const app = new App(new Visitor(host, recall));
  dress(wishes);
  if (host) countUnread(app, host, preferring);
  keepPlace(app);
  app.start();
  void mount(app, preferring, <Widget title={wishes.title} agent={wishes.agent} onClose={() => host?.close()} />);
}

if (window === parent) location.replace("/"); // opened by itself: there is a page for that
else begin();
