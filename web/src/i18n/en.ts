/** Every word of the page, in English; the shape of every other language. */

import type { Problem } from "../state/model";
import type { UploadFault } from "../state/uploads";
import { counting } from "./counted";

const count = counting("en");

export const en = {
  product: "Parley",
  skipToMessage: "Skip to the message box",
  close: "Close",
  cancel: "Cancel",
  undo: "Undo",
  tryAgain: "Try again",
  loading: "Loading…",

  signIn: {
    title: "Welcome to Parley",
    lead: "Sign in to see your conversations.",
    userName: "Your name",
    userHint: "This is a local installation: any name will do.",
    enter: "Sign in",
    token: "Access token",
    tokenHint: "Paste a token that your organisation gave you. It is kept in this tab alone.",
    useToken: "Use an access token instead",
    useName: "Sign in with a name instead",
    refusedName: "That name was not accepted. Take letters, digits, dots and dashes.",
    nameNotHere: "By this address nobody comes in with a name alone. Use an access token.",
    refusedToken: "That is no access token. It has three parts, with dots between them.",
    unreachable: "Parley does not answer. Trying again…",
    awayTitle: "Parley does not answer",
    awayText: "It is asked again every few seconds. What you wrote is kept in this browser.",
    tryNow: "Try now",
  },

  list: {
    title: "Conversations",
    newConversation: "New conversation",
    search: "Search",
    clearSearch: "Clear the search",
    archive: "Archive",
    backToList: "Conversations",
    untitled: "New conversation",
    running: "Being answered",
    unread: "New answer",
    moreFor: (title: string) => `Options for “${title}”`,
    rename: "Rename",
    renameLabel: "New title",
    archiveIt: "Archive",
    unarchiveIt: "Take out of the archive",
    remove: "Delete",
    empty: "No conversations yet.",
    emptyArchive: "The archive is empty.",
    noHits: (words: string) => `Nothing found for “${words}”.`,
    failed: "The list could not be loaded.",
    hits: (n: number) => count(n, "conversation found", "conversations found"),
    show: "Show conversations",
    hide: "Hide conversations",
    signOut: "Sign out",
    signedInAs: (user: string) => `Signed in as ${user}`,
  },

  dates: { today: "Today", yesterday: "Yesterday", week: "Last 7 days", month: "Last 30 days" },

  thread: {
    label: "Conversation",
    loadEarlier: "Show earlier messages",
    toEnd: "To the end",
    toEndUnread: "To the end: something new is there",
    goneTitle: "This conversation is not here",
    goneText: "It was deleted, or it belongs to somebody else.",
    failedTitle: "The conversation could not be loaded",
    failedText: "Your messages are safe. Check your connection, and try again.",
    goBack: "Start a new conversation",
  },

  welcome: {
    title: (name: string) => (name ? `What can I do for you, ${name}?` : "What can I do for you?"),
    lead: "Ask anything, or begin with one of these.",
    starters: ["Add a task: buy milk", "What is on my list?", "What can you do?", "Plan my week with me"],
  },

  message: {
    you: "You",
    assistant: "Assistant",
    system: "System",
    sending: "Sending…",
    queued: "Queued",
    notSent: "Not sent",
    thinking: "Thinking…",
    reasoning: "Reasoning",
    reasoningNow: "Reasoning…",
    stopped: "Stopped",
    cutShort: "The answer reached its length limit.",
    filtered: "The answer was held back by a filter.",
    cancelQueued: "Cancel",
    failed: "This could not be answered.",
    failedAdvice: "Your message is kept.",
    reference: (id: string) => `Reference: ${id}`,
    copy: "Copy",
    copied: "Copied",
    edit: "Edit",
    regenerate: "Answer again",
    discard: "Take back",
    saveEdit: "Send",
    editLabel: "Edit your message",
    found: "Found",
    versions: "Versions of this message",
    version: (n: number, of: number) => `Version ${n} of ${of}`,
    previousVersion: "Previous version",
    nextVersion: "Next version",
    image: "Image",
    file: "File",
    imageNotLoaded: (alt: string) => `Image not loaded: ${alt}`,
    code: "Code",
    copyCode: "Copy code",
    approved: "You allowed it.",
    refused: "You refused it.",
  },

  problems: {
    offline: "You are offline. It will be sent when you are back.",
    unreachable: "Parley could not be reached.",
    expired: "You are signed out. Sign in to send it.",
    limited: "You have reached a limit.",
    busy: "Parley is busy right now.",
    refused: "This message was not accepted.",
    gone: "This conversation is no longer here.",
    againAt: (time: string) => `Trying again at ${time}.`,
  } satisfies Record<Problem["kind"], string> & { againAt: (time: string) => string },

  tool: {
    running: "running",
    completed: "done",
    failed: "failed",
    incomplete: "outcome unknown",
    milliseconds: (n: string) => `${n} ms`,
    seconds: (n: string) => `${n} s`,
    arguments: "Input",
    result: "Result",
    error: "Error",
    nothing: "Nothing",
    of: (server: string) => `From “${server}”, with:`,
    approvalTitle: (name: string) => `May I use “${name}”?`,
    allow: "Allow",
    refuse: "Refuse",
  },

  attachments: {
    add: "Attach files",
    drop: "Drop files here to attach them",
    list: "Attached files",
    progress: (name: string, percent: string) => `${name}, ${percent} uploaded`,
    cancel: (name: string) => `Cancel the upload of ${name}`,
    remove: (name: string) => `Remove ${name}`,
    save: (name: string) => `Save ${name}`,
    enlarge: (name: string) => `Enlarge ${name}`,
    image: "Image",
    file: "File",
    gone: "no longer stored",
    faults: {
      "too large": (limit: string) => `Larger than ${limit}.`,
      "wrong kind": () => "Not an image, PDF or text.",
      "no images": () => "The assistant takes no images.",
      empty: () => "The file is empty.",
      "too many": (limit: string) => `At most ${limit} files at once.`,
      refused: () => "It was not accepted.",
      unreachable: () => "The upload broke off.",
    } satisfies Record<UploadFault, (limit: string) => string>,
  },

  composer: {
    label: "Message",
    placeholder: "Write a message",
    send: "Send",
    stop: "Stop",
    agent: "Assistant",
    hint: "Enter sends, Shift + Enter makes a new line",
  },

  tasks: {
    title: "Tasks",
    show: "Show tasks",
    hide: "Hide tasks",
    empty: "Nothing to do. Ask for a task to be added, and it appears here.",
    failed: "The tasks could not be loaded.",
    open: (n: number) => count(n, "open task", "open tasks"),
    due: (date: string) => `due ${date}`,
    done: "Done",
    more: (n: number) => count(n, "more task", "more tasks"),
    priority: { low: "low", normal: "", high: "high" } as Readonly<Record<string, string>>,
  },

  status: {
    answering: "Answering…",
    complete: "The answer is complete.",
    stopped: "The answer was stopped.",
    failed: "The answer failed.",
  },

  banner: {
    offline: "You are offline. What you write is kept.",
    reconnecting: "Reconnecting…",
    expired: "Your session has ended. Nothing is lost.",
    signIn: "Sign in again",
  },

  notices: {
    deleted: (name: string) => `Deleted “${name}”.`,
    archived: (name: string) => `Moved “${name}” to the archive.`,
    unarchived: (name: string) => `Took “${name}” out of the archive.`,
    copied: () => "Copied.",
    failed: () => "That did not work. Try again.",
  },

  settings: {
    title: "Settings",
    open: "Settings",
    theme: "Appearance",
    themes: { system: "System", light: "Light", dark: "Dark" },
    language: "Language",
    ownLanguage: "As in this browser",
  },

  usage: {
    title: "Usage today",
    tokens: (n: number) => count(n, "token", "tokens"),
    ofLimit: (used: string, limit: string) => `${used} of ${limit}`,
    answers: (n: number) => count(n, "answer", "answers"),
    renewed: (time: string) => `Counted anew from ${time}.`,
    unlimited: "There is no limit.",
    earlier: "Earlier days",
    failed: "The usage could not be loaded.",
  },

  menu: {
    open: "Options of this conversation",
    share: "Share",
    exportMarkdown: "Export as Markdown",
    exportJson: "Export as JSON",
  },

  share: {
    title: "Share this conversation",
    lead: "Anyone with the link can read what is in it now, without signing in. What follows is not shared.",
    create: "Create a link",
    copyLink: "Copy the link",
    revoke: "Revoke",
    revoked: "Revoked: the link leads nowhere now.",
    created: (date: string) => `Created ${date}`,
    until: (date: string) => `until ${date}`,
    none: "There is no link yet.",
    failed: "That did not work. Try again.",
    links: "Links",
    onceHint: "Copy it now: the link is shown this once.",
    omitted: (n: number) => count(n, "file, not shared", "files, not shared"),
    readOnly: "A shared conversation, to read.",
    continueIt: "Copy and continue",
    continueHint: "It becomes a conversation of your own; the shared one stays as it is.",
    goneTitle: "This link leads nowhere",
    goneText: "It was revoked, or it has ended.",
    home: "Go to Parley",
    failedTitle: "The shared conversation could not be loaded",
    failedText: "Check your connection, and try again.",
  },

  feedback: {
    label: "Was this answer good?",
    good: "Good answer",
    bad: "Bad answer",
    reason: "What was wrong with it?",
    reasonGood: "What was good about it?",
    reasonHint: "Optional",
    send: "Send",
    thanks: "Thank you.",
  },

  widget: {
    close: "Close chat",
    welcome: "How can I help?",
    lead: "Ask anything. Answers go on while you look around.",
    strangerTitle: "Who are you?",
    strangerText: "This site could not say who you are. Sign in here if you have not yet, and try again.",
    unread: (n: number) => count(n, "new answer", "new answers"),
  },

  keys: {
    title: "Keyboard",
    open: "Keyboard shortcuts",
    send: "Send the message",
    newline: "Begin a new line",
    stop: "Stop the answer",
    editLast: "Edit your last message",
    search: "Search conversations",
    help: "Show this list",
    names: { enter: "Enter", shift: "Shift", escape: "Esc", up: "↑", control: "Ctrl", command: "⌘" },
  },
} as const;

type Widened<T> = T extends string
  ? string
  : T extends readonly string[]
    ? readonly string[]
    : T extends (...args: infer A) => string
      ? (...args: A) => string
      : { readonly [K in keyof T]: Widened<T[K]> };

export type Catalogue = Widened<typeof en>;
