/** The words and forms of the reader's language. */

import { createContext, useContext } from "react";

import { type Catalogue, en } from "./en";

/** Catalogues by language; all but English are fetched when they are wanted. */
const CATALOGUES: Readonly<Record<string, () => Promise<Catalogue>>> = {
  en: () => Promise.resolve(en),
  de: async () => (await import("./de")).de,
};

/** What there is to choose from, each by its own name. */
export const LANGUAGES = [
  { tag: "en", name: "English" },
  { tag: "de", name: "Deutsch" },
] as const;

export interface Language {
  /** A BCP 47 tag, for `Intl` and `lang`. */
  readonly tag: string;
  readonly direction: "ltr" | "rtl";
  readonly words: Catalogue;
}

const RIGHT_TO_LEFT = new Set(["ar", "fa", "he", "ur"]);

/** The first of `wanted` that there is a catalogue for. Dates keep the reader's region: en-GB stays en-GB. */
export async function languageOf(wanted: readonly string[]): Promise<Language> {
  for (const tag of wanted) {
    const base = tag.toLowerCase().split("-")[0] ?? "";
    const words = await CATALOGUES[base]?.().catch(() => null); // without a network, the next one
    if (words) return { tag, direction: RIGHT_TO_LEFT.has(base) ? "rtl" : "ltr", words };
  }
  return ENGLISH;
}

export const ENGLISH: Language = { tag: "en", direction: "ltr", words: en };

export const LanguageContext = createContext<Language>(ENGLISH);

export function useLanguage(): Language {
  return useContext(LanguageContext);
}

export function useWords(): Catalogue {
  return useContext(LanguageContext).words;
}

/** Hours and minutes; with the date where it is another day. `seconds` since 1970. */
export function timeOf(language: Language, seconds: number, now = new Date()): string {
  const time = new Date(seconds * 1000);
  const isToday = time.toDateString() === now.toDateString();
  return new Intl.DateTimeFormat(language.tag, { ...(isToday ? {} : { dateStyle: "medium" }), timeStyle: "short" }).format(time);
}

/** The day of a time. `seconds` since 1970. */
export function dateOf(language: Language, seconds: number): string {
  return new Intl.DateTimeFormat(language.tag, { dateStyle: "medium" }).format(new Date(seconds * 1000));
}

const KIB = 1024;

/** Such as 8 MB, 40 kB. */
export function sizeOf(language: Language, bytes: number): string {
  const isLarge = bytes >= KIB * KIB;
  const unit = isLarge ? "megabyte" : "kilobyte";
  const amount = isLarge ? bytes / (KIB * KIB) : Math.ceil(bytes / KIB);
  return new Intl.NumberFormat(language.tag, { style: "unit", unit, maximumFractionDigits: isLarge && amount < 10 ? 1 : 0 }).format(amount);
}

const SECONDS_FROM_MS = 100; // less is told in milliseconds
const TENTHS_BELOW_MS = 10_000;

/** How long something took, such as 42 ms, 0.4 s, 12 s: `shown` to the eye, `said` in whole words. */
export function durationOf(language: Language, ms: number): { readonly shown: string; readonly said: string } {
  const isShort = ms < SECONDS_FROM_MS;
  const digits = !isShort && ms < TENTHS_BELOW_MS ? 1 : 0;
  const form = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const amount = isShort ? ms : ms / 1000;
  const unit = isShort ? "millisecond" : "second";
  const number = new Intl.NumberFormat(language.tag, form).format(amount);
  return {
    shown: isShort ? language.words.tool.milliseconds(number) : language.words.tool.seconds(number),
    said: new Intl.NumberFormat(language.tag, { ...form, style: "unit", unit, unitDisplay: "long" }).format(amount),
  };
}

/** `part` of 1, such as 40 %. */
export function percentOf(language: Language, part: number): string {
  return new Intl.NumberFormat(language.tag, { style: "percent" }).format(part);
}

export function numberOf(language: Language, n: number): string {
  return new Intl.NumberFormat(language.tag).format(n);
}

/** A day without a time, such as 2026-03-02. */
export function dayOf(language: Language, day: string): string {
  const [year = 0, month = 1, date = 1] = day.split("-").map(Number);
  return new Intl.DateTimeFormat(language.tag, { day: "numeric", month: "short" }).format(new Date(year, month - 1, date));
}

/** The heading of the group of a list that this time belongs to. */
export function ageOf(language: Language, seconds: number, now = new Date()): string {
  const { dates } = language.words;
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime() / 1000;
  const days = Math.ceil((midnight - seconds) / 86_400);
  if (days <= 0) return dates.today;
  if (days === 1) return dates.yesterday;
  if (days <= 7) return dates.week;
  if (days <= 30) return dates.month;
  return new Intl.DateTimeFormat(language.tag, { month: "long", year: "numeric" }).format(new Date(seconds * 1000));
}
