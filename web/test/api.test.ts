import { describe, expect, it } from "vitest";
import { ApiError, EventReader, readChunk } from "../src/api";

describe("EventReader", () => {
  const stream = 'data: {"a":1}\n\n: a comment\n\ndata: {"b":"é\\n"}\r\n\r\ndata: [DONE]\n\n';
  const whole = ['{"a":1}', '{"b":"é\\n"}', "[DONE]"];

  it("reads a stream however it is cut", () => {
    for (let size = 1; size <= stream.length; size++) {
      const reader = new EventReader();
      const found: string[] = [];
      for (let at = 0; at < stream.length; at += size) found.push(...reader.push(stream.slice(at, at + size)));
      expect(found, `in pieces of ${size}`).toEqual(whole);
    }
  });

  it("holds an unfinished event back", () => {
    const reader = new EventReader();
    expect(reader.push('data: {"a"')).toEqual([]);
    expect(reader.push(":1}\n\n")).toEqual(['{"a":1}']);
  });
});

describe("readChunk", () => {
  const choice = (delta: object, rest: object = {}): object => ({
    choices: [{ delta, finish_reason: null, logprobs: null, ...rest }],
  });
  const read = (chunk: object): unknown[] => [...readChunk(chunk as Parameters<typeof readChunk>[0])];

  it("tells prompt, tokens, end and usage apart", () => {
    expect(read({ ...choice({ role: "assistant", content: "" }), prompt_text: "<s>hi" })).toEqual([
      { kind: "prompt", text: "<s>hi" },
    ]);
    expect(read(choice({ content: "a" }))).toEqual([{ kind: "token", text: "a", entries: [] }]);
    expect(read(choice({}, { finish_reason: "stop" }))).toEqual([{ kind: "finish", reason: "stop" }]);
    const usage = { prompt_tokens: 1, completion_tokens: 2 };
    expect(read({ choices: [], usage })).toEqual([{ kind: "usage", usage }]);
  });

  it("keeps a token that adds no text", () => {
    const entries = [{ token: "<|im_end|>", logprob: 0, top_logprobs: [] }];
    expect(read(choice({ content: "" }, { logprobs: { content: entries } }))).toEqual([
      { kind: "token", text: "", entries },
    ]);
  });

  it("raises an error event", () => {
    expect(() => read({ error: { message: "broken", code: "internal_error" } })).toThrow(ApiError);
  });
});
