/** Links by which anybody reads the open conversation. */

import { type ReactNode, useEffect, useState } from "react";

import type { Share } from "../protocol/wire";
import { Refused } from "../transport/client";
import { dateOf, timeOf, useLanguage } from "../i18n";
import { useApp, useShown } from "./context";
import { Dialog } from "./dialog";
import type { LaterProps } from "./later";
import { CopyButton, Skeleton } from "./parts";

export function ShareDialog({ onClose }: LaterProps): ReactNode {
  const language = useLanguage();
  const words = language.words;
  const app = useApp();
  const conversationId = useShown((state) => state.thread.conversationId) ?? "";
  const [shares, setShares] = useState<readonly Share[] | null>(null);
  const [fault, setFault] = useState("");
  const [isBusy, setBusy] = useState(false);

  const attempt = async (act: () => Promise<void>): Promise<void> => {
    setFault("");
    setBusy(true);
    await act().catch((error: unknown) => setFault(sentenceOf(error) || words.share.failed));
    setBusy(false);
  };
  useEffect(() => {
    void attempt(async () => setShares(await app.api.shares(conversationId)));
  }, [conversationId]);
  const create = (): Promise<void> => attempt(async () => setShares([await app.api.share(conversationId), ...(shares ?? [])]));
  const revoke = (id: string): Promise<void> =>
    attempt(async () => {
      await app.api.revokeShare(conversationId, id);
      setShares((shares ?? []).filter((each) => each.id !== id));
    });

  return (
    <Dialog title={words.share.title} onClose={onClose} className="share">
      <p>{words.share.lead}</p>
      <button type="button" className="primary" disabled={isBusy} onClick={() => void create()}>
        {words.share.create}
      </button>
      {fault && (
        <p role="alert" className="problem">
          {fault}
        </p>
      )}
      {shares === null && !fault && <Skeleton lines={2} />}
      {shares?.length === 0 && <p className="note">{words.share.none}</p>}
      {shares && shares.length > 0 && (
        <ul aria-label={words.share.links}>
          {shares.map((share) => (
            <li key={share.id}>
              {share.url && (
                <div className="share-link">
                  <input readOnly value={share.url} dir="ltr" aria-label={words.share.links} onFocus={(event) => event.target.select()} />
                  <CopyButton text={share.url} label={words.share.copyLink} />
                </div>
              )}
              <div className="share-facts">
                <span>
                  {words.share.created(timeOf(language, share.createdAt))}
                  {share.expiresAt !== null && `, ${words.share.until(dateOf(language, share.expiresAt))}`}
                </span>
                <button type="button" className="link danger" disabled={isBusy} onClick={() => void revoke(share.id)}>
                  {words.share.revoke}
                </button>
              </div>
            </li>
          ))}
        </ul>
      )}
      {shares?.some((share) => share.url) && <p className="note">{words.share.onceHint}</p>}
    </Dialog>
  );
}

/** What the gateway said of it. */
function sentenceOf(error: unknown): string {
  return error instanceof Refused ? error.message : "";
}
