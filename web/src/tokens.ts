// From the tokens of a stream to pieces of visible text, and from log-probabilities to what is shown of them.

import type { Candidate, TokenEntry } from "./api";

/** What one span shows. A character cut into several tokens is one piece with several entries. */
export interface Piece {
  text: string;
  entries: TokenEntry[];
}

/** Gathers tokens into pieces: tokens that add no text yet wait for the one that does. */
export class PieceMaker {
  private waiting: TokenEntry[] = [];

  push(text: string, entries: TokenEntry[]): Piece | null {
    if (text === "") {
      this.waiting.push(...entries);
      return null;
    }
    const piece = { text, entries: [...this.waiting, ...entries] };
    this.waiting = [];
    return piece;
  }

  /** The tokens that never became text: the one that ends the answer, and those of a stop string. */
  finish(): Piece | null {
    if (this.waiting.length === 0) return null;
    const piece = { text: "", entries: this.waiting };
    this.waiting = [];
    return piece;
  }
}

export function probability(logprob: number): number {
  return Math.min(1, Math.exp(logprob));
}

/** How sure the model was of a piece: the probability of all its tokens. */
export function pieceProbability(piece: Piece): number {
  return probability(piece.entries.reduce((sum, entry) => sum + entry.logprob, 0));
}

/** Lower bounds of the levels of certainty, surest first; what is below them all is the last level. */
export const LEVELS = [0.8, 0.5, 0.2] as const;

export function level(p: number): number {
  const found = LEVELS.findIndex((bound) => p >= bound);
  return found === -1 ? LEVELS.length : found;
}

export interface Row extends Candidate {
  chosen: boolean;
}

/** The candidates of a token, likeliest first; the chosen one is always among them. */
export function rows(entry: TokenEntry): Row[] {
  const same = (candidate: Candidate): boolean =>
    candidate.id !== undefined && entry.id !== undefined ? candidate.id === entry.id : candidate.token === entry.token;
  const listed = entry.top_logprobs.map((candidate) => ({ ...candidate, chosen: same(candidate) }));
  if (!listed.some((row) => row.chosen)) listed.push({ ...entry, chosen: true });
  return listed.sort((a, b) => b.logprob - a.logprob);
}

const NAMES: Record<string, string> = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };

/** A token's text with its spaces and line breaks made visible; control characters as their code. */
export function visible(token: string): string {
  if (token === "") return "∅";
  return token.replace(/[\p{Cc}\p{Cf}\p{Zs}\u2028\u2029]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return NAMES[character] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  });
}

export function percent(p: number, language: string): string {
  const digits = p >= 0.9995 || p < 0.00005 ? 0 : p < 0.01 ? 2 : 1;
  return new Intl.NumberFormat(language, {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(p);
}
