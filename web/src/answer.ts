// One answer on the page: its tokens as spans, the ribbon below them, and what can be done with it.

import type { TokenEntry, Usage } from "./api";
import { element } from "./dom";
import type { Popover } from "./popover";
import { PieceMaker, level, pieceProbability, visible, type Piece } from "./tokens";
import { WORDS, say, type Language, type Words } from "./words";

export type Ending = "stop" | "length" | "stopped" | "error";

export class Answer {
  readonly root = element("article", "turn answer");
  private readonly body = element("div", "text");
  private readonly ribbon = element("div", "ribbon");
  private readonly foot = element("footer");
  private readonly facts = element("span", "facts");
  private readonly maker = new PieceMaker();
  private readonly spans: HTMLElement[] = [];
  private readonly shown = new Map<HTMLElement, { piece: Piece; parts: HTMLElement[] }>();
  private current = 0;
  private firstAt = 0;
  text = "";

  constructor(
    model: string,
    private readonly language: () => Language,
    private readonly popover: Popover,
  ) {
    this.body.role = "group";
    this.body.dataset["tLabel"] = "answerTokens";
    this.body.ariaLabel = this.words.answerTokens;
    this.ribbon.ariaHidden = "true";
    this.root.ariaBusy = "true";
    this.root.append(element("h3", "", model), this.body, this.ribbon, this.foot);
    this.body.addEventListener("keydown", (event) => this.onKey(event));
    for (const kind of ["pointerover", "focusin", "click"] as const)
      this.root.addEventListener(kind, (event) => this.onPoint(event.target));
    this.root.addEventListener("pointerleave", () => this.onLeave());
  }

  private get words(): Words {
    return WORDS[this.language()];
  }

  push(text: string, entries: TokenEntry[]): void {
    if (this.firstAt === 0) this.firstAt = performance.now();
    this.text += text;
    const piece = this.maker.push(text, entries);
    if (piece !== null) this.add(piece, element("span", "", piece.text));
  }

  prompt(text: string): void {
    const summary = say(element("summary"), "read", this.language());
    this.root.insertBefore(element("details", "read", summary, element("pre", "", text)), this.body);
  }

  /** Ends the answer; the buttons go into its foot. */
  finish(ending: Ending, usage: Usage | null, buttons: HTMLElement[]): void {
    const piece = this.maker.finish();
    if (piece !== null && ending === "stop") {
      const last = piece.entries.at(-1);
      this.add(piece, element("span", "end", visible(last?.token ?? "")));
    }
    this.root.ariaBusy = "false";
    this.facts.textContent = this.describe(ending, usage);
    this.foot.append(this.facts, ...buttons);
  }

  fail(message: string): void {
    const box = element("p", "error", element("strong", "", `${this.words.error}: `), message);
    box.role = "alert";
    this.root.insertBefore(box, this.foot);
  }

  private describe(ending: Ending, usage: Usage | null): string {
    const words = this.words;
    const facts: string[] = [];
    if (usage !== null) {
      const seconds = (performance.now() - this.firstAt) / 1000;
      const speed = usage.completion_tokens > 1 && seconds > 0 ? (usage.completion_tokens - 1) / seconds : 0;
      const counts = words.counts.replace("{read}", String(usage.prompt_tokens));
      facts.push(counts.replace("{written}", String(usage.completion_tokens)));
      const digits = { maximumFractionDigits: speed < 10 ? 1 : 0 };
      if (speed > 0) facts.push(words.speed.replace("{speed}", speed.toLocaleString(this.language(), digits)));
    }
    if (ending === "length") facts.push(words.lengthReached);
    if (ending === "stopped") facts.push(words.stopped);
    return facts.join(" · ");
  }

  private add(piece: Piece, span: HTMLElement): void {
    this.body.append(span);
    if (piece.entries.length === 0) return;
    const pane = element("span");
    const parts = [span, pane];
    for (const part of parts) {
      part.dataset["level"] = String(level(pieceProbability(piece)));
      this.shown.set(part, { piece, parts });
    }
    span.tabIndex = this.spans.length === 0 ? 0 : -1; // one tab stop an answer; the arrow keys do the rest
    this.spans.push(span);
    this.ribbon.append(pane);
  }

  private onPoint(target: EventTarget | null): void {
    if (!(target instanceof HTMLElement)) return;
    const found = this.shown.get(target);
    if (found === undefined) return;
    this.popover.show(target, found.parts, found.piece, this.language());
    const index = this.spans.indexOf(target);
    if (index >= 0) this.setCurrent(index);
  }

  private onLeave(): void {
    if (!this.body.contains(document.activeElement)) this.popover.hide();
  }

  private onKey(event: KeyboardEvent): void {
    const last = this.spans.length - 1;
    const steps: Record<string, number> = { ArrowRight: this.current + 1, ArrowLeft: this.current - 1, Home: 0, End: last };
    const next = steps[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(last, next));
    this.setCurrent(index);
    this.spans[index]?.focus();
  }

  private setCurrent(index: number): void {
    const before = this.spans[this.current];
    if (before) before.tabIndex = -1;
    this.current = index;
    const now = this.spans[index];
    if (now) now.tabIndex = 0;
  }
}
