/** Files: on their way into a message, and in one that was sent. */

import { type ReactNode, useEffect, useState } from "react";

import type { Attachment } from "../protocol/wire";
import { FILES_MAX, type Upload } from "../state/uploads";
import { numberOf, percentOf, sizeOf, useLanguage, useWords } from "../i18n";
import { useApp, useShown } from "./context";
import { Dialog } from "./dialog";
import { Icon } from "./icons";
import { IconButton } from "./parts";

/** What is uploaded for the next message. */
export function UploadList({ uploads }: { readonly uploads: readonly Upload[] }): ReactNode {
  const words = useWords();
  if (uploads.length === 0) return null;
  return (
    <ul className="uploads" aria-label={words.attachments.list}>
      {uploads.map((upload) => (
        <UploadCard key={upload.id} upload={upload} />
      ))}
    </ul>
  );
}

function UploadCard({ upload }: { readonly upload: Upload }): ReactNode {
  const language = useLanguage();
  const words = language.words.attachments;
  const app = useApp();
  const { fileBytesMax } = app.taken;
  const { name, status, fault, progress } = upload;
  const limit = fault === "too many" ? numberOf(language, FILES_MAX) : sizeOf(language, fileBytesMax);
  return (
    <li className={`upload upload-${status}`}>
      {upload.preview ? <img src={upload.preview} alt="" /> : <Icon name="file" />}
      <div>
        <p className="upload-name" dir="auto">
          {name}
        </p>
        {fault ? (
          <p className="upload-fault" role="alert">
            {upload.message || words.faults[fault](limit)}
          </p>
        ) : (
          <p className="note">{status === "uploading" ? percentOf(language, progress) : sizeOf(language, upload.bytes)}</p>
        )}
        {status === "uploading" && <progress value={progress} max={1} aria-label={words.progress(name, percentOf(language, progress))} />}
      </div>
      <IconButton icon="close" label={status === "uploading" ? words.cancel(name) : words.remove(name)} onClick={() => app.parts.uploads.remove(upload.id)} />
    </li>
  );
}

/** What came with a message. */
export function AttachmentList({ attachments }: { readonly attachments: readonly Attachment[] }): ReactNode {
  const words = useWords();
  if (attachments.length === 0) return null;
  return (
    <ul className="attachments" aria-label={words.attachments.list}>
      {attachments.map((attachment, index) => (
        <li key={attachment.fileId ?? index}>{attachment.kind === "image" ? <Picture attachment={attachment} /> : <Document attachment={attachment} />}</li>
      ))}
    </ul>
  );
}

function Picture({ attachment }: { readonly attachment: Attachment }): ReactNode {
  const words = useWords().attachments;
  const [isLarge, setLarge] = useState(false);
  const picture = usePicture(attachment.fileId);
  const name = attachment.name ?? words.image;
  if (picture === "gone") return <p className="file-chip gone">{`${name}: ${words.gone}`}</p>;
  return (
    <>
      <button type="button" className="picture" disabled={picture === null} aria-label={words.enlarge(name)} onClick={() => setLarge(true)}>
        {picture && <img src={picture} alt={name} />}
      </button>
      {isLarge && picture && (
        <Dialog title={name} onClose={() => setLarge(false)} className="enlarged">
          <img src={picture} alt={name} />
        </Dialog>
      )}
    </>
  );
}

function Document({ attachment }: { readonly attachment: Attachment }): ReactNode {
  const words = useWords().attachments;
  const app = useApp();
  const [isGone, setGone] = useState(false);
  const name = attachment.name ?? words.file;
  const save = async (): Promise<void> => {
    try {
      saveAs(await app.api.file(attachment.fileId ?? "", AbortSignal.timeout(SAVING_MS)), name);
    } catch {
      setGone(true);
    }
  };
  if (isGone || attachment.fileId === null) return <p className="file-chip gone">{`${name}: ${words.gone}`}</p>;
  return (
    <button type="button" className="file-chip" aria-label={words.save(name)} title={words.save(name)} onClick={() => void save()}>
      <Icon name="file" />
      <span dir="auto">{name}</span>
    </button>
  );
}

const SAVING_MS = 120_000;
const RELEASE_MS = 60_000; // a browser may read the address of a download a little later

/** Have the browser store it under that name. */
export function saveAs(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), RELEASE_MS);
}

/** The address of a stored picture, for this tab; null while it is loaded. */
function usePicture(fileId: string | null): string | "gone" | null {
  const { files } = useApp().parts;
  const userId = useShown((state) => state.userId);
  const [picture, setPicture] = useState<string | null>(fileId ? null : "gone");
  useEffect(() => {
    if (!fileId) return;
    const loading = new AbortController();
    let url = "";
    files.load(fileId, loading.signal).then(
      (content) => {
        if (loading.signal.aborted) return;
        url = URL.createObjectURL(content);
        setPicture(url);
      },
      () => {
        if (!loading.signal.aborted) setPicture("gone");
      },
    );
    return () => {
      loading.abort();
      URL.revokeObjectURL(url);
    };
  }, [files, fileId, userId]);
  return picture;
}
