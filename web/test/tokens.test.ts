import { describe, expect, it } from "vitest";
import type { TokenEntry } from "../src/api";
import { PieceMaker, level, percent, pieceProbability, rows, visible } from "../src/tokens";

const entry = (token: string, logprob: number, top: [string, number][] = []): TokenEntry => ({
  token,
  logprob,
  top_logprobs: top.map(([name, value]) => ({ token: name, logprob: value })),
});

describe("PieceMaker", () => {
  it("joins the tokens of one character into one piece", () => {
    const maker = new PieceMaker();
    expect(maker.push("", [entry("<0xF0>", -1)])).toBeNull();
    expect(maker.push("", [entry("<0x9F>", -2)])).toBeNull();
    const piece = maker.push("🦜", [entry("<0xA6>", -3)]);
    expect(piece?.text).toBe("🦜");
    expect(piece?.entries.map((e) => e.logprob)).toEqual([-1, -2, -3]);
    expect(maker.push("a", [entry("a", -1)])?.entries).toHaveLength(1);
  });

  it("keeps the token that ends the answer for the end", () => {
    const maker = new PieceMaker();
    maker.push("a", [entry("a", -1)]);
    maker.push("", [entry("<|im_end|>", -0.1)]);
    expect(maker.finish()).toEqual({ text: "", entries: [entry("<|im_end|>", -0.1)] });
    expect(maker.finish()).toBeNull();
  });
});

describe("probability", () => {
  it("multiplies over the tokens of a piece", () => {
    const piece = { text: "é", entries: [entry("a", Math.log(0.5)), entry("b", Math.log(0.5))] };
    expect(pieceProbability(piece)).toBeCloseTo(0.25);
  });

  it("has four levels", () => {
    expect([1, 0.8, 0.79, 0.5, 0.49, 0.2, 0.19, 0].map(level)).toEqual([0, 0, 1, 1, 2, 2, 3, 3]);
  });

  it("is written as people read it", () => {
    expect([1, 0.9996, 0.528, 0.0074, 0.00001].map((p) => percent(p, "en"))).toEqual([
      "100%", "100%", "52.8%", "0.74%", "0%",
    ]);
    expect(percent(0.528, "pt")).toBe("52,8%");
  });
});

describe("rows", () => {
  it("sorts, marks the chosen token, and adds it when it was not among the likeliest", () => {
    const listed = rows(entry("b", -2, [["a", -1], ["b", -2]]));
    expect(listed.map((row) => [row.token, row.chosen])).toEqual([["a", false], ["b", true]]);
    const unlikely = rows(entry("z", -9, [["a", -1], ["b", -2]]));
    expect(unlikely.map((row) => [row.token, row.chosen])).toEqual([["a", false], ["b", false], ["z", true]]);
  });

  it("tells tokens of the same text apart by their id", () => {
    const made = { ...entry("x", -3, []), id: 7, top_logprobs: [{ id: 8, token: "x", logprob: -1 }] };
    expect(rows(made).map((row) => [row.id, row.chosen])).toEqual([[8, false], [7, true]]);
  });
});

describe("visible", () => {
  it("shows what cannot be seen", () => {
    expect(visible(" a\n\t")).toBe("␣a↵⇥");
    expect(visible("")).toBe("∅");
    expect(visible("\u200b\u0000\u2028")).toBe("U+200BU+0000U+2028");
    expect(visible("naïve 🦜")).toBe("naïve␣🦜");
  });
});
