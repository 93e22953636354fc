/**
 * What the gateway sends under /v1, as far as the page reads it. Everything from the network passes one of the `read…`
 * functions: what is not of a known form is dropped here, so that nothing behind them needs to doubt a field.
 */

export type ResponseStatus = "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";
export type ItemStatus = "in_progress" | "completed" | "incomplete" | "failed";

export interface MessageItem {
  readonly type: "message";
  readonly id: string;
  readonly role: "user" | "assistant" | "system";
  readonly status: ItemStatus;
  readonly text: string;
  readonly attachments: readonly Attachment[];
}

export interface Attachment {
  readonly kind: "image" | "file";
  readonly fileId: string | null;
  readonly name: string | null;
}

export interface ReasoningItem {
  readonly type: "reasoning";
  readonly id: string;
  readonly status: ItemStatus;
  readonly text: string;
}

/** A call of a tool: made by a worker (`server` names the tool server), or left to a client (`server` is null). */
export interface ToolCallItem {
  readonly type: "tool_call";
  readonly id: string;
  readonly server: string | null;
  readonly name: string;
  readonly arguments: string;
  readonly output: string | null;
  readonly error: string | null;
  /** How long it took; null where nobody knows, or it was not made. */
  readonly durationMs: number | null;
  readonly status: ItemStatus;
}

export interface ApprovalRequestItem {
  readonly type: "approval_request";
  readonly id: string;
  readonly server: string;
  readonly name: string;
  readonly arguments: string;
}

export interface ApprovalAnswerItem {
  readonly type: "approval_answer";
  readonly id: string;
  readonly requestId: string;
  readonly isApproved: boolean;
}

export type Item = MessageItem | ReasoningItem | ToolCallItem | ApprovalRequestItem | ApprovalAnswerItem;

export interface Failure {
  readonly code: string;
  readonly message: string;
}

/** A Response object. */
export interface WireResponse {
  readonly id: string;
  readonly conversationId: string | null;
  readonly previousResponseId: string | null;
  readonly status: ResponseStatus;
  readonly createdAt: number;
  readonly output: readonly Item[];
  readonly error: Failure | null;
  readonly incompleteReason: string | null;
}

/** An item of a conversation's list: with the response it belongs to, and its time in seconds. */
export interface StoredItem {
  readonly item: Item;
  readonly responseId: string | null;
  readonly createdAt: number;
}

/** A response's place in the tree of a conversation. */
export interface TreeResponse {
  readonly id: string;
  readonly previousResponseId: string | null;
  readonly status: ResponseStatus;
  readonly siblingIds: readonly string[];
  readonly feedback: Feedback | null;
}

export interface Conversation {
  readonly id: string;
  readonly title: string;
  readonly isArchived: boolean;
  readonly activeResponseId: string | null;
  readonly runningResponseId: string | null;
  readonly updatedAt: number;
  readonly isUnread: boolean;
  /** The message that a search found; null where it was the title, or nothing was searched for. */
  readonly match: Match | null;
}

export interface Match {
  readonly itemId: string;
  readonly responseId: string | null;
  readonly snippet: readonly { readonly text: string; readonly isMatch: boolean }[];
}

/** What the user thinks of a response. */
export interface Feedback {
  readonly rating: "positive" | "negative";
  readonly reason: string;
}

/** A link by which anybody reads a conversation. Its address is told once, when it is made. */
export interface Share {
  readonly id: string;
  readonly createdAt: number;
  readonly expiresAt: number | null;
  readonly url: string | null;
}

export interface SharedMessage {
  readonly type: "message";
  readonly position: number;
  readonly role: "user" | "assistant";
  readonly text: string;
  readonly omittedFiles: number;
}

export interface SharedToolCall {
  readonly type: "tool_call";
  readonly position: number;
  readonly name: string;
  readonly status: ItemStatus;
}

export interface SharedPage {
  readonly title: string;
  readonly sharedAt: number;
  readonly items: readonly (SharedMessage | SharedToolCall)[];
  readonly hasMore: boolean;
}

export interface Page<T> {
  readonly data: readonly T[];
  readonly lastId: string | null;
  readonly hasMore: boolean;
}

export interface Agent {
  readonly id: string;
  readonly description: string;
  /** The kinds of content that a message may bring. */
  readonly inputs: ReadonlySet<string>;
  /** Of an image or a file. */
  readonly fileBytesMax: number;
}

export interface UsageOfDay {
  /** Such as 2026-03-02, in UTC. */
  readonly date: string;
  readonly answers: number;
  readonly tokens: number;
}

export interface Usage {
  readonly today: UsageOfDay;
  /** Newest first. */
  readonly days: readonly UsageOfDay[];
  /** Null: there is no limit. */
  readonly tokensPerDayMax: number | null;
}

export interface Task {
  readonly id: string;
  readonly title: string;
  readonly isCompleted: boolean;
  readonly due: string | null;
  readonly priority: string | null;
}

/** An event of a response's stream. Types that the page has no use for are `other`: they only carry their number. */
export type StreamEvent = { readonly sequence: number } & (
  | { readonly type: "state"; readonly status: ResponseStatus }
  | { readonly type: "item.added"; readonly index: number; readonly item: Item }
  | { readonly type: "item.done"; readonly index: number; readonly item: Item }
  | { readonly type: "delta"; readonly itemId: string; readonly field: "text" | "arguments"; readonly delta: string }
  | { readonly type: "arguments"; readonly itemId: string; readonly arguments: string }
  | { readonly type: "part.added"; readonly itemId: string; readonly index: number }
  | { readonly type: "ended"; readonly response: WireResponse }
  | { readonly type: "other" }
);

export interface Touched {
  readonly conversationId: string;
  readonly kind: string;
}

export type Json = Readonly<Record<string, unknown>>;

export function isEnded(status: ResponseStatus): boolean {
  return status !== "queued" && status !== "in_progress";
}

const RESPONSE_STATUSES: ReadonlySet<string> = new Set(
  ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"] satisfies ResponseStatus[],
);

export function record(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function textOrNull(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function whole(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

function amountOrNull(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : null;
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function responseStatus(value: unknown): ResponseStatus {
  return RESPONSE_STATUSES.has(text(value)) ? (value as ResponseStatus) : "in_progress";
}

function itemStatus(value: unknown): ItemStatus {
  const known = value === "completed" || value === "incomplete" || value === "failed";
  return known ? value : value === undefined ? "completed" : "in_progress";
}

function present<T>(value: T | null): value is T {
  return value !== null;
}

/** Null for kinds that are not shown. */
export function readItem(value: unknown): Item | null {
  const item = record(value);
  const id = text(item["id"]);
  const status = itemStatus(item["status"]);
  switch (item["type"]) {
    case "message":
      return readMessage(item, id, status);
    case "reasoning": {
      const summaries = list(item["summary"]).map((part) => text(record(part)["text"]));
      return { type: "reasoning", id, status, text: summaries.join("\n\n") };
    }
    case "mcp_call":
    case "function_call":
      return {
        type: "tool_call",
        id,
        server: textOrNull(item["server_label"]),
        name: text(item["name"]),
        arguments: text(item["arguments"]),
        output: textOrNull(item["output"]),
        error: readToolError(item["error"]),
        durationMs: amountOrNull(item["duration_ms"]),
        status,
      };
    case "mcp_approval_request":
      return {
        type: "approval_request",
        id,
        server: text(item["server_label"]),
        name: text(item["name"]),
        arguments: text(item["arguments"]),
      };
    case "mcp_approval_response":
      return {
        type: "approval_answer",
        id,
        requestId: text(item["approval_request_id"]),
        isApproved: item["approve"] === true,
      };
    default:
      return null;
  }
}

function readMessage(item: Json, id: string, status: ItemStatus): MessageItem {
  const role = item["role"] === "user" || item["role"] === "assistant" ? item["role"] : "system";
  const parts = list(item["content"]).map(record);
  const said = parts.map((part) => text(part["text"]) || text(part["refusal"])).filter(Boolean);
  const attachments = parts.flatMap((part): Attachment[] => {
    if (part["type"] !== "input_image" && part["type"] !== "input_file") return [];
    const kind = part["type"] === "input_image" ? "image" : "file";
    return [{ kind, fileId: textOrNull(part["file_id"]), name: textOrNull(part["filename"]) }];
  });
  return { type: "message", id, role, status, text: said.join("\n\n"), attachments };
}

function readToolError(value: unknown): string | null {
  if (typeof value === "string") return value;
  const error = record(value);
  if (typeof error["message"] === "string") return error["message"];
  const parts = list(error["content"]).map((part) => text(record(part)["text"]));
  if (parts.length > 0) return parts.join("\n");
  return value === null || value === undefined ? null : text(error["type"]);
}

function readItems(value: unknown): readonly Item[] {
  return list(value).map(readItem).filter(present);
}

export function readResponse(value: unknown): WireResponse {
  const response = record(value);
  const error = record(response["error"]);
  return {
    id: text(response["id"]),
    conversationId: textOrNull(record(response["conversation"])["id"]),
    previousResponseId: textOrNull(response["previous_response_id"]),
    status: responseStatus(response["status"]),
    createdAt: whole(response["created_at"]),
    output: readItems(response["output"]),
    error: response["error"] ? { code: text(error["type"]) || text(error["code"]), message: text(error["message"]) } : null,
    incompleteReason: textOrNull(record(response["incomplete_details"])["reason"]),
  };
}

export function readStoredItem(value: unknown): StoredItem | null {
  const item = readItem(value);
  const stored = record(value);
  return item && { item, responseId: textOrNull(stored["response_id"]), createdAt: whole(stored["created_at"]) };
}

export function readTreeResponse(value: unknown): TreeResponse {
  const response = record(value);
  return {
    id: text(response["id"]),
    previousResponseId: textOrNull(response["previous_response_id"]),
    status: responseStatus(response["status"]),
    siblingIds: list(response["sibling_ids"]).map(text),
    feedback: readFeedback(response["feedback"]),
  };
}

export function readConversation(value: unknown): Conversation {
  const conversation = record(value);
  return {
    id: text(conversation["id"]),
    title: text(conversation["title"]),
    isArchived: conversation["archived"] === true,
    activeResponseId: textOrNull(conversation["active_response_id"]),
    runningResponseId: textOrNull(conversation["running_response_id"]),
    updatedAt: whole(conversation["updated_at"]),
    isUnread: conversation["is_unread"] === true,
    match: readMatch(conversation["match"]),
  };
}

function readMatch(value: unknown): Match | null {
  const match = record(value);
  const itemId = text(match["item_id"]);
  if (!itemId) return null;
  const pieces = list(match["snippet"]).map(record);
  return {
    itemId,
    responseId: textOrNull(match["response_id"]),
    snippet: pieces.map((piece) => ({ text: text(piece["text"]), isMatch: piece["is_match"] === true })),
  };
}

export function readFeedback(value: unknown): Feedback | null {
  const { rating, reason } = record(value);
  return rating === "positive" || rating === "negative" ? { rating, reason: text(reason) } : null;
}

export function readShare(value: unknown): Share {
  const share = record(value);
  const expires = share["expires_at"];
  return {
    id: text(share["id"]),
    createdAt: whole(share["created_at"]),
    expiresAt: typeof expires === "number" ? expires : null,
    url: textOrNull(share["url"]),
  };
}

export function readShared(value: unknown): SharedPage {
  const shared = record(value);
  return {
    title: text(shared["title"]),
    sharedAt: whole(shared["shared_at"]),
    items: list(shared["data"]).map(readSharedItem).filter(present),
    hasMore: shared["has_more"] === true,
  };
}

function readSharedItem(value: unknown): SharedMessage | SharedToolCall | null {
  const item = record(value);
  const position = whole(item["position"]);
  if (item["type"] === "tool_call") return { type: "tool_call", position, name: text(item["name"]), status: itemStatus(item["status"]) };
  if (item["type"] !== "message") return null;
  const parts = list(item["content"]).map(record);
  return {
    type: "message",
    position,
    role: item["role"] === "user" ? "user" : "assistant",
    text: parts.map((part) => text(part["text"]) || text(part["refusal"])).filter(Boolean).join("\n\n"),
    omittedFiles: whole(item["omitted_file_count"]),
  };
}

export function readPage<T>(value: unknown, read: (element: unknown) => T | null): Page<T> {
  const page = record(value);
  return {
    data: list(page["data"]).map(read).filter(present),
    lastId: textOrNull(page["last_id"]),
    hasMore: page["has_more"] === true,
  };
}

export function readAgents(value: unknown): readonly Agent[] {
  return list(record(value)["data"]).map((each) => {
    const agent = record(each);
    return {
      id: text(agent["id"]),
      description: text(agent["description"]),
      inputs: new Set(list(agent["inputs"]).map(text)),
      fileBytesMax: whole(agent["file_bytes_max"]),
    };
  });
}

export function readUsage(value: unknown): Usage {
  const usage = record(value);
  const limit = usage["tokens_per_day_max"];
  return {
    today: readUsageOfDay(usage["today"]),
    days: list(usage["days"]).map(readUsageOfDay),
    tokensPerDayMax: typeof limit === "number" ? limit : null,
  };
}

function readUsageOfDay(value: unknown): UsageOfDay {
  const day = record(value);
  return { date: text(day["date"]), answers: whole(day["response_count"]), tokens: whole(day["total_tokens"]) };
}

export function readTasks(value: unknown): { readonly tasks: readonly Task[]; readonly total: number } {
  const page = record(value);
  const tasks = list(page["tasks"]).map((each): Task => {
    const task = record(each);
    return {
      id: text(task["id"]),
      title: text(task["title"]),
      isCompleted: task["completed"] === true,
      due: textOrNull(task["due"]),
      priority: textOrNull(task["priority"]),
    };
  });
  return { tasks, total: whole(page["total"]) };
}

export function readTouched(value: unknown): Touched | null {
  const event = record(value);
  if (event["type"] !== "conversation.touched") return null;
  return { conversationId: text(event["conversation_id"]), kind: text(event["kind"]) };
}

/** Null for what has no number: it is no event of a response. */
export function readStreamEvent(value: unknown): StreamEvent | null {
  const event = record(value);
  const sequence = event["sequence_number"];
  if (typeof sequence !== "number") return null;
  const index = whole(event["output_index"]);
  const itemId = text(event["item_id"]);
  switch (event["type"]) {
    case "response.created":
    case "response.queued":
    case "response.in_progress":
      return { sequence, type: "state", status: responseStatus(record(event["response"])["status"]) };
    case "response.output_item.added":
    case "response.output_item.done": {
      const item = readItem(event["item"]);
      const type = event["type"] === "response.output_item.done" ? "item.done" : "item.added";
      return item ? { sequence, type, index, item } : { sequence, type: "other" };
    }
    case "response.output_text.delta":
    case "response.refusal.delta":
    case "response.reasoning_summary_text.delta":
      return { sequence, type: "delta", itemId, field: "text", delta: text(event["delta"]) };
    case "response.mcp_call_arguments.delta":
    case "response.function_call_arguments.delta":
      return { sequence, type: "delta", itemId, field: "arguments", delta: text(event["delta"]) };
    case "response.mcp_call_arguments.done":
    case "response.function_call_arguments.done":
      return { sequence, type: "arguments", itemId, arguments: text(event["arguments"]) };
    case "response.reasoning_summary_part.added":
      return { sequence, type: "part.added", itemId, index: whole(event["summary_index"]) };
    case "response.content_part.added":
      return { sequence, type: "part.added", itemId, index: whole(event["content_index"]) };
    case "response.completed":
    case "response.incomplete":
    case "response.failed":
      return { sequence, type: "ended", response: readResponse(event["response"]) };
    default:
      return { sequence, type: "other" };
  }
}
