/** How the page looks and speaks, and what of the day's tokens is used. */

import { type ReactNode, useEffect, useState } from "react";

import type { Usage } from "../protocol/wire";
import { THEMES } from "../state/preferences";
import { useSelected } from "../state/store";
import { LANGUAGES, dayOf, numberOf, timeOf, useLanguage, useWords } from "../i18n";
import { useApp, usePreferring } from "./context";
import { Dialog } from "./dialog";
import type { LaterProps } from "./later";
import { Skeleton } from "./parts";

export function SettingsDialog({ onClose }: LaterProps): ReactNode {
  const words = useWords();
  const preferring = usePreferring();
  const theme = useSelected(preferring.store, (preferences) => preferences.theme);
  const chosen = useSelected(preferring.store, (preferences) => preferences.chosenLanguage);
  return (
    <Dialog title={words.settings.title} onClose={onClose} className="settings">
      <fieldset className="segments">
        <legend>{words.settings.theme}</legend>
        {THEMES.map((each) => (
          <label key={each}>
            <input type="radio" name="theme" value={each} checked={theme === each} onChange={() => preferring.chooseTheme(each)} />
            <span>{words.settings.themes[each]}</span>
          </label>
        ))}
      </fieldset>
      <label className="field">
        <span>{words.settings.language}</span>
        <select value={chosen ?? ""} onChange={(event) => void preferring.chooseLanguage(event.target.value || null)}>
          <option value="">{words.settings.ownLanguage}</option>
          {LANGUAGES.map(({ tag, name }) => (
            <option key={tag} value={tag} lang={tag}>
              {name}
            </option>
          ))}
        </select>
      </label>
      <UsageSection />
    </Dialog>
  );
}

function UsageSection(): ReactNode {
  const words = useWords();
  const app = useApp();
  const [usage, setUsage] = useState<Usage | "failed" | null>(null);
  useEffect(() => {
    const asking = new AbortController();
    app.api.usage(asking.signal).then(setUsage, () => {
      if (!asking.signal.aborted) setUsage("failed");
    });
    return () => asking.abort();
  }, [app]);
  return (
    <section className="usage" aria-labelledby="usage-title">
      <h3 id="usage-title">{words.usage.title}</h3>
      {usage === null && <Skeleton lines={2} />}
      {usage === "failed" && <p role="alert">{words.usage.failed}</p>}
      {usage !== null && usage !== "failed" && <UsageFacts usage={usage} />}
    </section>
  );
}

function UsageFacts({ usage }: { readonly usage: Usage }): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const { today, days, tokensPerDayMax } = usage;
  const earlier = days.filter((day) => day.date !== today.date);
  const used = words.usage.tokens(today.tokens);
  return (
    <>
      <p className="usage-today">
        <strong>{tokensPerDayMax === null ? used : words.usage.ofLimit(numberOf(language, today.tokens), words.usage.tokens(tokensPerDayMax))}</strong>
        <span>{words.usage.answers(today.answers)}</span>
      </p>
      {tokensPerDayMax !== null && <progress value={Math.min(today.tokens, tokensPerDayMax)} max={tokensPerDayMax} aria-label={words.usage.title} />}
      <p className="note">{tokensPerDayMax === null ? words.usage.unlimited : words.usage.renewed(timeOf(language, nextDay(today.date)))}</p>
      {earlier.length > 0 && (
        <details>
          <summary>{words.usage.earlier}</summary>
          <table>
            <tbody>
              {earlier.map((day) => (
                <tr key={day.date}>
                  <th scope="row">{dayOf(language, day.date)}</th>
                  <td>{words.usage.tokens(day.tokens)}</td>
                  <td>{words.usage.answers(day.answers)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </details>
      )}
    </>
  );
}

/** When the day ends, which is one of UTC; seconds since 1970. */
function nextDay(date: string): number {
  return Date.parse(`${date}T00:00:00Z`) / 1000 + 86_400;
}
