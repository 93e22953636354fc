/** Who is signed in: by the gateway's cookie, or by an access token that was pasted. */

import { record } from "../protocol/wire";
import { type Credentials, Refused } from "./client";

const TOKEN_KEY = "parley.token"; // of this tab alone: a closed tab forgets it
const CSRF_HEADER = "x-csrf-token";

export interface Identity {
  readonly userId: string;
}

/** What the gateway says about itself to somebody who is not signed in. */
export interface Door {
  readonly identity: Identity | null;
  readonly isDevLoginOffered: boolean;
}

/** A way to be somebody. */
export interface SignIn extends Credentials {
  /** Who this is, as far as is known. Throws where nobody can be asked. */
  open(): Promise<Door>;
  /** Null: no such name. Throws Refused where nobody may come in so. */
  signInLocally(user: string): Promise<Identity | null>;
  signInWith(token: string): Identity | null;
  signOut(): Promise<void>;
}

export class Session implements SignIn {
  private token: string | null = sessionStorage.getItem(TOKEN_KEY);
  private csrf: string | null = null;

  headers(isChange: boolean): Readonly<Record<string, string>> {
    if (this.token) return { authorization: `Bearer ${this.token}` };
    return isChange && this.csrf ? { [CSRF_HEADER]: this.csrf } : {};
  }

  /** A cookie may have been renewed by another tab; a pasted token cannot be. */
  async refresh(): Promise<boolean> {
    if (this.token) return false;
    const door = await this.open().catch(() => null);
    return door?.identity != null;
  }

  /** Who this is, as far as the gateway knows. Throws where it cannot be asked. */
  async open(): Promise<Door> {
    const isDevLoginOffered = document.querySelector('meta[name="parley-door"]')?.getAttribute("content") === "name";
    if (this.token) {
      const userId = subjectOf(this.token);
      if (userId) return { identity: { userId }, isDevLoginOffered };
      this.forget();
    }
    const answer = await fetch("/session", { credentials: "same-origin", cache: "no-store" });
    if (!answer.ok && answer.status !== 401) throw new Error("the gateway is not ready");
    const said = answer.ok ? record(await answer.json().catch(() => null)) : {};
    return { identity: this.enter(said), isDevLoginOffered };
  }

  /** Sign in as anybody: only where the gateway's profile is local. Null: it is refused. */
  async signInLocally(user: string): Promise<Identity | null> {
    const answer = await fetch("/session/dev", {
      method: "POST",
      credentials: "same-origin",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user_id: user }),
    });
    if (answer.status === 403) throw new Refused(403, "origin_not_allowed", "", null, null);
    return answer.ok ? this.enter(record(await answer.json().catch(() => null))) : null;
  }

  /** Use an access token. Null: it is none. */
  signInWith(token: string): Identity | null {
    const userId = subjectOf(token);
    if (userId === null) return null;
    this.token = token;
    sessionStorage.setItem(TOKEN_KEY, token);
    return { userId };
  }

  async signOut(): Promise<void> {
    const headers = this.headers(true);
    const isPasted = this.token !== null;
    this.forget();
    if (!isPasted) await fetch("/session", { method: "DELETE", credentials: "same-origin", headers });
  }

  private forget(): void {
    this.token = null;
    this.csrf = null;
    sessionStorage.removeItem(TOKEN_KEY);
  }

  private enter(said: Readonly<Record<string, unknown>>): Identity | null {
    const csrf = said["csrf_token"];
    const userId = said["user_id"];
    this.csrf = typeof csrf === "string" ? csrf : null;
    return typeof userId === "string" ? { userId } : null;
  }
}

/** The subject of a JWT, which it only names: whether the token holds, the gateway decides. */
export function subjectOf(token: string): string | null {
  try {
    const claims: unknown = JSON.parse(atob((token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/")));
    const subject = record(claims)["sub"];
    return typeof subject === "string" ? subject : null;
  } catch {
    return null;
  }
}
