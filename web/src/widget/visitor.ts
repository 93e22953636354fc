/** Who is signed in at the host page: by tokens that it gives, which are in memory and nowhere else. */

import { type Door, type Identity, type SignIn, subjectOf } from "../transport/session";
import type { Host } from "./host";

export class Visitor implements SignIn {
  private token: string | null = null;
  private userId: string | null = null;
  private asking: Promise<boolean> | null = null;

  /** `host` is null where there is none to ask. `onKnown` is called with the user, before anything is read for them. */
  constructor(
    private readonly host: Host | null,
    private readonly onKnown: (userId: string) => void,
  ) {}

  headers(): Readonly<Record<string, string>> {
    return this.token ? { authorization: `Bearer ${this.token}` } : {};
  }

  /** Ask the host once for however many requests were refused. */
  refresh(): Promise<boolean> {
    this.asking ??= this.ask().finally(() => {
      this.asking = null;
    });
    return this.asking;
  }

  async open(): Promise<Door> {
    const isKnown = await this.refresh();
    return { identity: isKnown && this.userId ? { userId: this.userId } : null, isDevLoginOffered: false };
  }

  /** Signing in is the host's business. */
  signInLocally(): Promise<Identity | null> {
    return Promise.resolve(null);
  }

  signInWith(): Identity | null {
    return null;
  }

  signOut(): Promise<void> {
    this.token = null;
    return Promise.resolve();
  }

  private async ask(): Promise<boolean> {
    this.token = (await this.host?.token()) ?? null;
    const userId = this.token ? subjectOf(this.token) : null;
    if (userId === null) return false;
    // Another user must not find what the last one left in the memory of this document.
    if (this.userId !== null && this.userId !== userId) location.reload();
    if (this.userId === null) this.onKnown(userId);
    this.userId = userId;
    return true;
  }
}
