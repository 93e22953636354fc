/** Files on their way into the next message: judged before they are sent, uploaded one beside the other, given up. */

import type { Attachment } from "../protocol/wire";
import type { Api } from "../transport/api";
import { Refused } from "../transport/client";
import { newId } from "./ids";
import type { State } from "./model";
import type { Store } from "./store";

export const FILES_MAX = 10; // of one message

export type UploadFault = "too large" | "wrong kind" | "no images" | "empty" | "too many" | "refused" | "unreachable";

export interface Upload {
  readonly id: string;
  /** The conversation that it is for; null: one that has yet to begin. */
  readonly conversationId: string | null;
  readonly name: string;
  readonly bytes: number;
  readonly kind: "image" | "file";
  /** The address of the picture, of this tab alone. */
  readonly preview: string | null;
  /** How much of it is sent, as a part of 1. */
  readonly progress: number;
  readonly status: "uploading" | "done" | "failed";
  readonly fault: UploadFault | null;
  /** The gateway's sentence, where it refused. */
  readonly message: string;
  readonly fileId: string | null;
}

/** What the assistant takes. */
export interface Taken {
  readonly inputs: ReadonlySet<string>;
  readonly fileBytesMax: number;
}

const KIND_BYTES = 64 * 1024; // so much of a file is looked at to tell what it is
const IMAGES = [/^\x89PNG\r\n\x1a\n/, /^\xff\xd8\xff/, /^GIF8[79]a/, /^RIFF[^]{4}WEBP/];
const NO_TEXT = /[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]/;

export class Uploads {
  private readonly underWay = new Map<string, AbortController>();

  constructor(
    private readonly store: Store<State>,
    private readonly api: Api,
  ) {}

  of(conversationId: string | null): readonly Upload[] {
    return this.store.get().uploads.filter((upload) => upload.conversationId === conversationId);
  }

  /** Judge and upload them for the next message of this conversation. */
  async add(conversationId: string | null, files: readonly File[], taken: Taken): Promise<void> {
    for (const file of files) {
      const isTooMany = this.of(conversationId).filter((upload) => upload.status !== "failed").length >= FILES_MAX;
      const kind = await kindOf(file);
      const fault = isTooMany ? "too many" : faultOf(file, kind, taken);
      const upload: Upload = {
        id: newId(),
        conversationId,
        name: file.name,
        bytes: file.size,
        kind: kind === "image" ? "image" : "file",
        preview: kind === "image" && !fault ? URL.createObjectURL(file) : null,
        progress: 0,
        status: fault ? "failed" : "uploading",
        fault,
        message: "",
        fileId: null,
      };
      this.store.set({ uploads: [...this.store.get().uploads, upload] });
      if (!fault) void this.send(upload.id, file);
    }
  }

  /** Take it away, and stop its upload. */
  remove(id: string): void {
    const upload = this.store.get().uploads.find((each) => each.id === id);
    this.underWay.get(id)?.abort();
    this.forget((each) => each.id === id);
    if (upload?.fileId) void this.api.deleteFile(upload.fileId).catch(() => undefined);
  }

  /** What is there for the next message; it is the message's from now on. */
  take(conversationId: string | null): readonly Attachment[] {
    const done = this.of(conversationId).filter((upload) => upload.status === "done");
    this.forget((each) => each.conversationId === conversationId);
    return done.map(({ kind, fileId, name }) => ({ kind, fileId, name }));
  }

  /** The conversation that had yet to begin has begun. */
  begun(conversationId: string): void {
    const uploads = this.store.get().uploads.map((each) => (each.conversationId === null ? { ...each, conversationId } : each));
    this.store.set({ uploads });
  }

  private async send(id: string, file: File): Promise<void> {
    const own = new AbortController();
    this.underWay.set(id, own);
    try {
      const fileId = await this.api.upload(file, (progress) => this.change(id, { progress }), own.signal);
      this.change(id, { status: "done", progress: 1, fileId });
    } catch (error) {
      const isRefused = error instanceof Refused;
      this.change(id, { status: "failed", fault: isRefused ? "refused" : "unreachable", message: isRefused ? error.message : "" });
    } finally {
      this.underWay.delete(id);
    }
  }

  private change(id: string, change: Partial<Upload>): void {
    this.store.set({ uploads: this.store.get().uploads.map((each) => (each.id === id ? { ...each, ...change } : each)) });
  }

  private forget(isForgotten: (upload: Upload) => boolean): void {
    const { uploads } = this.store.get();
    for (const { preview } of uploads.filter(isForgotten)) if (preview) URL.revokeObjectURL(preview);
    this.store.set({ uploads: uploads.filter((each) => !isForgotten(each)) });
  }
}

function faultOf(file: File, kind: "image" | "file" | null, taken: Taken): UploadFault | null {
  if (file.size === 0) return "empty";
  if (file.size > taken.fileBytesMax) return "too large";
  if (kind === "image" && !taken.inputs.has("image")) return "no images";
  return kind === null || (kind === "file" && !taken.inputs.has("file")) ? "wrong kind" : null;
}

/** What the file is, by its bytes as the gateway judges it; null: nothing that it takes. */
export async function kindOf(file: Blob): Promise<"image" | "file" | null> {
  const bytes = new Uint8Array(await file.slice(0, KIND_BYTES).arrayBuffer().catch(() => new ArrayBuffer(0)));
  const start = String.fromCharCode(...bytes.subarray(0, 16));
  if (IMAGES.some((image) => image.test(start))) return "image";
  if (start.startsWith("%PDF-")) return "file";
  try {
    // `stream`: the last character may be cut.
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: file.size > KIND_BYTES });
    return NO_TEXT.test(text) ? null : "file";
  } catch {
    return null;
  }
}
