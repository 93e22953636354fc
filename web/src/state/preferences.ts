/** How this browser likes the page: its theme, its language. Of the browser and not of a user, as the door needs them. */

import { ENGLISH, type Language, languageOf } from "../i18n";
import { Store } from "./store";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

export interface Preferences {
  readonly theme: Theme;
  /** A tag of `LANGUAGES`; null: the browser's. */
  readonly chosenLanguage: string | null;
  readonly language: Language;
}

const THEME_KEY = "parley.theme"; // src/theme.js reads it, too
const LANGUAGE_KEY = "parley.language";

export class Preferring {
  readonly store: Store<Preferences>;

  /** `language` is what the document asks for; null: whatever was chosen here. */
  constructor(private readonly given: string | null = null) {
    const theme = THEMES.find((each) => each === read(THEME_KEY)) ?? "system";
    this.store = new Store<Preferences>({ theme, chosenLanguage: given ?? read(LANGUAGE_KEY), language: ENGLISH });
  }

  /** Load the words. Until then they are English. */
  async load(): Promise<void> {
    const { chosenLanguage } = this.store.get();
    const language = await languageOf([...(chosenLanguage ? [regional(chosenLanguage)] : []), ...navigator.languages]);
    if (chosenLanguage !== this.store.get().chosenLanguage) return;
    document.documentElement.lang = language.tag;
    document.documentElement.dir = language.direction;
    this.store.set({ language });
  }

  chooseTheme(theme: Theme): void {
    keep(THEME_KEY, theme === "system" ? null : theme);
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
    this.store.set({ theme });
  }

  /** Null: the browser's own. */
  async chooseLanguage(tag: string | null): Promise<void> {
    if (this.given === null) keep(LANGUAGE_KEY, tag);
    this.store.set({ chosenLanguage: tag });
    await this.load();
  }
}

/** The browser's form of that language, if it has one: dates are then those of the reader's country. */
function regional(tag: string): string {
  return navigator.languages.find((each) => each === tag || each.startsWith(`${tag}-`)) ?? tag;
}

function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function keep(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // Storage is forbidden: it holds until the tab is closed.
  }
}
