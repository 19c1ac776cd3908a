// The server's public HTTP API, and nothing else: /v1/models and /v1/chat/completions.

export interface Model {
  id: string;
  kind?: string;
  chat?: boolean;
  context?: number;
  parameters?: number;
  licence?: string;
}

export interface Candidate {
  id?: number;
  token: string;
  logprob: number;
}

/** One token of an answer, with the candidates it was chosen from. */
export interface TokenEntry extends Candidate {
  top_logprobs: Candidate[];
}

export interface ApiMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatBody {
  model: string;
  messages: ApiMessage[];
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  seed?: number;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
}

/** What a stream tells, in the order it tells it. */
export type ChatEvent =
  | { kind: "prompt"; text: string }
  | { kind: "token"; text: string; entries: TokenEntry[] }
  | { kind: "finish"; reason: string }
  | { kind: "usage"; usage: Usage };

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null,
  ) {
    super(message);
  }
}

/** Cuts server-sent events out of text that arrives in any pieces; gives the data of each whole event. */
export class EventReader {
  private rest = "";

  push(text: string): string[] {
    const events = (this.rest + text).replaceAll("\r\n", "\n").split("\n\n");
    this.rest = events.pop() ?? "";
    return events.map(dataOf).filter((data) => data !== "");
  }
}

function dataOf(event: string): string {
  const lines = event.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}

export async function listModels(key: string): Promise<Model[]> {
  const reply = await fetch("v1/models", { headers: authorization(key) });
  if (!reply.ok) throw await errorOf(reply);
  return ((await reply.json()) as { data: Model[] }).data;
}

/** Streams an answer. Aborting the signal closes the connection, which stops the model. */
export async function* streamChat(body: ChatBody, key: string, signal: AbortSignal): AsyncGenerator<ChatEvent> {
  const extras = {
    stream: true,
    stream_options: { include_usage: true },
    logprobs: true,
    top_logprobs: 8,
    return_prompt: true,
  };
  const reply = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ ...body, ...extras }),
    signal,
  });
  if (!reply.ok || !reply.body) throw await errorOf(reply);
  const events = new EventReader();
  let done = false;
  const decoder = new TextDecoder();
  const reader = reply.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    for (const data of events.push(decoder.decode(piece.value, { stream: true }))) {
      if (data === "[DONE]") done = true;
      else yield* readChunk(JSON.parse(data) as Chunk);
    }
  }
  if (!done) throw new ApiError("", 0, "stream_cut");
}

interface Chunk {
  choices?: {
    delta: { content?: string };
    logprobs?: { content?: TokenEntry[] } | null;
    finish_reason: string | null;
  }[];
  usage?: Usage | null;
  prompt_text?: string;
  error?: { message: string; code: string | null };
}

export function* readChunk(chunk: Chunk): Generator<ChatEvent> {
  if (chunk.error) throw new ApiError(chunk.error.message, 200, chunk.error.code);
  if (chunk.prompt_text !== undefined) yield { kind: "prompt", text: chunk.prompt_text };
  for (const choice of chunk.choices ?? []) {
    const text = choice.delta.content ?? "";
    const entries = choice.logprobs?.content ?? [];
    if (text !== "" || entries.length > 0) yield { kind: "token", text, entries };
    if (choice.finish_reason !== null) yield { kind: "finish", reason: choice.finish_reason };
  }
  if (chunk.usage) yield { kind: "usage", usage: chunk.usage };
}

function authorization(key: string): Record<string, string> {
  return key === "" ? {} : { Authorization: `Bearer ${key}` };
}

async function errorOf(reply: Response): Promise<ApiError> {
  try {
    const { error } = (await reply.json()) as { error: { message: string; code: string | null } };
    return new ApiError(error.message, reply.status, error.code);
  } catch {
    return new ApiError(`HTTP ${reply.status}`, reply.status, null);
  }
}
