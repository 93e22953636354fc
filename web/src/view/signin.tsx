/** The door: by a name where the installation is local, else by an access token. */

import { type ReactNode, useState } from "react";

import mark from "../icon.svg";
import { useWords } from "../i18n";
import { Refused } from "../transport/client";
import { useApp, useShown } from "./context";

export function SignIn(): ReactNode {
  const words = useWords();
  const app = useApp();
  const isDevLoginOffered = useShown((state) => state.isDevLoginOffered);
  const [isByToken, setByToken] = useState(false);
  const [fault, setFault] = useState("");
  const [text, setText] = useState("");
  const [isBusy, setBusy] = useState(false);
  const byToken = isByToken || !isDevLoginOffered;

  const enter = async (): Promise<void> => {
    setFault("");
    setBusy(true);
    try {
      const isIn = await app.signIn(byToken ? { token: text.trim() } : { user: text.trim() });
      if (!isIn) setFault(byToken ? words.signIn.refusedToken : words.signIn.refusedName);
    } catch (error) {
      setFault(error instanceof Refused ? words.signIn.nameNotHere : words.signIn.unreachable);
    } finally {
      setBusy(false);
    }
  };

  return (
    <main className="door">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void enter();
        }}
      >
        <img className="mark-of-ours" src={mark} alt="" />
        <h1>{words.signIn.title}</h1>
        <p>{words.signIn.lead}</p>
        <label htmlFor="credential">{byToken ? words.signIn.token : words.signIn.userName}</label>
        <input
          id="credential"
          key={String(byToken)}
          type={byToken ? "password" : "text"}
          value={text}
          autoFocus
          autoComplete={byToken ? "off" : "username"}
          spellCheck={false}
          aria-describedby="credential-hint"
          onChange={(event) => setText(event.target.value)}
        />
        <p id="credential-hint" className="note">
          {byToken ? words.signIn.tokenHint : words.signIn.userHint}
        </p>
        {fault && (
          <p role="alert" className="problem">
            {fault}
          </p>
        )}
        <button type="submit" className="primary" disabled={isBusy || text.trim() === ""}>
          {words.signIn.enter}
        </button>
        {isDevLoginOffered && (
          <button
            type="button"
            className="link"
            onClick={() => {
              setByToken(!isByToken);
              setText("");
              setFault("");
            }}
          >
            {byToken ? words.signIn.useName : words.signIn.useToken}
          </button>
        )}
      </form>
    </main>
  );
}

/** Nobody answers, so that it is not known who is there. By itself it is asked again. */
export function Away(): ReactNode {
  const words = useWords();
  const app = useApp();
  return (
    <main className="door">
      <section>
        <img className="mark-of-ours" src={mark} alt="" />
        <h1>{words.signIn.awayTitle}</h1>
        <p role="status">{words.signIn.awayText}</p>
        <button type="button" className="primary" onClick={() => void app.enter()}>
          {words.signIn.tryNow}
        </button>
      </section>
    </main>
  );
}
