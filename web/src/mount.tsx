/** Brings the page or the widget to life in its document. */

import "./styles/tokens.css";
import "./styles/page.css";

import { type ReactNode, StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { LanguageContext } from "./i18n";
import type { App } from "./state/app";
import type { Preferring } from "./state/preferences";
import { useSelected } from "./state/store";
import { AppContext, PreferringContext } from "./view/context";

/** Show `view` in the words of the chosen language, as soon as they are there. */
export async function mount(app: App, preferring: Preferring, view: ReactNode): Promise<void> {
  const root = document.getElementById("root");
  if (!root) throw new Error("the document has no root");
  await preferring.load();
  createRoot(root).render(
    <StrictMode>
      <PreferringContext value={preferring}>
        <AppContext value={app}>
          <Worded preferring={preferring}>{view}</Worded>
        </AppContext>
      </PreferringContext>
    </StrictMode>,
  );
}

/** Gives what is within it the words of the chosen language. */
function Worded({ preferring, children }: { readonly preferring: Preferring; readonly children: ReactNode }): ReactNode {
  const language = useSelected(preferring.store, (preferences) => preferences.language);
  return <LanguageContext value={language}>{children}</LanguageContext>;
}
