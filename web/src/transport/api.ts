/** The calls that the page makes. Each throws what `Client.json` does. */

import {
  type Agent,
  type Feedback,
  type Conversation,
  type Json,
  type Page,
  readAgents,
  readConversation,
  readShare,
  readShared,
  type Share,
  type SharedPage,
  readPage,
  readResponse,
  readStoredItem,
  readTasks,
  record,
  readTreeResponse,
  readUsage,
  type StoredItem,
  type Task,
  type TreeResponse,
  type Usage,
  type WireResponse,
} from "../protocol/wire";
import type { Client } from "./client";

export const ITEMS_PER_PAGE = 50;
const ITEMS_PER_PAGE_MAX = 100;
const RESPONSES_PER_PAGE = 100;
const CONVERSATIONS_PER_PAGE = 30;

/** What to list. */
export interface Listing {
  readonly search: string;
  readonly isArchived: boolean;
}

/** The body of `POST /v1/responses`; kept as it is for every repeat, since a key stands for one body. */
export type ResponseBody = Readonly<Record<string, unknown>>;

export class Api {
  constructor(readonly client: Client) {}

  async agents(): Promise<readonly Agent[]> {
    return readAgents(await this.client.json("/v1/models"));
  }

  async conversations(listing: Listing, after: string | null): Promise<Page<Conversation>> {
    const query = new URLSearchParams({ limit: String(CONVERSATIONS_PER_PAGE), archived: String(listing.isArchived) });
    if (listing.search.trim()) query.set("search", listing.search.trim());
    if (after) query.set("after", after);
    return readPage(await this.client.json(`/v1/conversations?${query}`), readConversation);
  }

  async conversation(id: string, signal?: AbortSignal): Promise<Conversation> {
    return readConversation(await this.client.json(`/v1/conversations/${id}`, signal ? { signal } : {}));
  }

  /** As the gateway says it. */
  async conversationAsStored(id: string): Promise<Json> {
    return record(await this.client.json(`/v1/conversations/${id}`));
  }

  async changeConversation(id: string, change: Readonly<Record<string, unknown>>): Promise<Conversation> {
    return readConversation(await this.client.json(`/v1/conversations/${id}`, { method: "POST", body: change }));
  }

  async deleteConversation(id: string): Promise<void> {
    await this.client.json(`/v1/conversations/${id}`, { method: "DELETE" });
  }

  async restoreConversation(id: string): Promise<Conversation> {
    return readConversation(await this.client.json(`/v1/conversations/${id}/restore`, { method: "POST" }));
  }

  /** A page of the active branch, newest first. */
  async items(id: string, after: string | null, signal: AbortSignal): Promise<Page<StoredItem>> {
    const query = new URLSearchParams({ limit: String(ITEMS_PER_PAGE), order: "desc" });
    if (after) query.set("after", after);
    return readPage(await this.client.json(`/v1/conversations/${id}/items?${query}`, { signal }), readStoredItem);
  }

  /** A page of the tree, newest first. */
  async tree(id: string, after: string | null, signal: AbortSignal): Promise<Page<TreeResponse>> {
    const query = new URLSearchParams({ limit: String(RESPONSES_PER_PAGE), order: "desc" });
    if (after) query.set("after", after);
    return readPage(await this.client.json(`/v1/conversations/${id}/responses?${query}`, { signal }), readTreeResponse);
  }

  async response(id: string, signal: AbortSignal): Promise<WireResponse> {
    return readResponse(await this.client.json(`/v1/responses/${id}`, { signal }));
  }

  async createResponse(key: string, body: ResponseBody): Promise<WireResponse> {
    const headers = { "idempotency-key": key };
    return readResponse(await this.client.json("/v1/responses", { method: "POST", headers, body }));
  }

  async cancelResponse(id: string): Promise<void> {
    await this.client.json(`/v1/responses/${id}/cancel`, { method: "POST" });
  }

  /** The conversation's user has seen what is in it. */
  async markRead(id: string): Promise<void> {
    await this.client.json(`/v1/conversations/${id}/read`, { method: "PUT" });
  }

  /** Null: take it back. */
  async giveFeedback(responseId: string, feedback: Feedback | null): Promise<void> {
    const path = `/v1/responses/${responseId}/feedback`;
    await this.client.json(path, feedback ? { method: "PUT", body: feedback } : { method: "DELETE" });
  }

  async share(id: string): Promise<Share> {
    return readShare(await this.client.json(`/v1/conversations/${id}/shares`, { method: "POST" }));
  }

  async shares(id: string): Promise<readonly Share[]> {
    return readPage(await this.client.json(`/v1/conversations/${id}/shares`), readShare).data;
  }

  async revokeShare(id: string, shareId: string): Promise<void> {
    await this.client.json(`/v1/conversations/${id}/shares/${shareId}`, { method: "DELETE" });
  }

  /** What a link shows, behind this position. Nobody needs to be signed in for it. */
  async shared(token: string, after: number): Promise<SharedPage> {
    return readShared(await this.client.json(`/v1/shares/${encodeURIComponent(token)}?after=${after}`));
  }

  async copyShared(token: string): Promise<Conversation> {
    return readConversation(await this.client.json(`/v1/shares/${encodeURIComponent(token)}/copy`, { method: "POST" }));
  }

  async usage(signal: AbortSignal): Promise<Usage> {
    return readUsage(await this.client.json("/v1/usage", { signal }));
  }

  /** Store a file. `onProgress` is told how much of it is there, as a part of 1. Returns its id. */
  async upload(file: File, onProgress: (part: number) => void, signal: AbortSignal): Promise<string> {
    const form = new FormData();
    form.set("purpose", "user_data");
    form.set("file", file);
    return String(record(await this.client.upload("/v1/files", form, onProgress, signal))["id"]);
  }

  async file(id: string, signal: AbortSignal): Promise<Blob> {
    return (await this.client.ask(`/v1/files/${id}/content`, { signal })).blob();
  }

  async deleteFile(id: string): Promise<void> {
    await this.client.json(`/v1/files/${id}`, { method: "DELETE" });
  }

  /** A page of the active branch, oldest first, as the gateway says it. */
  async itemsAsStored(id: string, after: string | null): Promise<Page<Json>> {
    const query = new URLSearchParams({ limit: String(ITEMS_PER_PAGE_MAX), order: "asc" });
    if (after) query.set("after", after);
    return readPage(await this.client.json(`/v1/conversations/${id}/items?${query}`), record);
  }

  async tasks(userId: string): Promise<{ readonly tasks: readonly Task[]; readonly total: number }> {
    return readTasks(await this.client.json(`/api/${encodeURIComponent(userId)}/tasks?limit=100`));
  }

  async completeTask(userId: string, id: string, isCompleted: boolean): Promise<void> {
    const path = `/api/${encodeURIComponent(userId)}/tasks/${id}/complete`;
    await this.client.json(path, { method: "PATCH", body: { completed: isCompleted } });
  }
}

export function streamPath(responseId: string, seen: number): string {
  const from = seen >= 0 ? `&starting_after=${seen}` : "";
  return `/v1/responses/${responseId}?stream=true${from}`;
}
