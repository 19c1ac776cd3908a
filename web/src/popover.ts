// The candidates of a token, in a small box beside it.

import type { TokenEntry } from "./api";
import { element, find } from "./dom";
import { place } from "./place";
import { percent, probability, rows, visible, type Piece, type Row } from "./tokens";
import { WORDS, type Language } from "./words";

const MOST_ENTRIES = 4;

export class Popover {
  private readonly box = find("popover");
  private anchor: HTMLElement | null = null;
  private marked: HTMLElement[] = [];

  /** Shows the candidates of a piece beside the anchor, and marks every element that stands for the piece. */
  show(anchor: HTMLElement, marked: HTMLElement[], piece: Piece, language: Language): void {
    this.hide();
    const words = WORDS[language];
    const parts: Node[] = [];
    if (piece.text === "") parts.push(element("p", "note", words.endOfAnswer));
    else if (piece.entries.length > 1)
      parts.push(element("p", "note", `${piece.entries.length} ${words.tokensOfCharacter}`));
    for (const entry of piece.entries.slice(0, MOST_ENTRIES)) parts.push(table(entry, language));
    this.box.replaceChildren(...parts);
    this.box.hidden = false;
    this.anchor = anchor;
    anchor.setAttribute("aria-describedby", this.box.id);
    this.marked = marked;
    for (const each of marked) each.classList.add("open");
    this.move();
  }

  move(): void {
    if (this.anchor === null) return;
    // the first line's box: a token that wraps has several
    const box = this.anchor.getClientRects()[0] ?? this.anchor.getBoundingClientRect();
    const view = { width: document.documentElement.clientWidth, height: document.documentElement.clientHeight };
    const size = { width: this.box.offsetWidth, height: this.box.offsetHeight };
    const inRibbon = this.anchor.closest(".ribbon") !== null; // there the text lies above, and should stay visible
    const { left, top } = place(box, size, view, inRibbon ? "below" : "above");
    this.box.style.setProperty("left", `${left}px`);
    this.box.style.setProperty("top", `${top}px`);
  }

  hide(): void {
    this.box.hidden = true;
    this.anchor?.removeAttribute("aria-describedby");
    for (const each of this.marked) each.classList.remove("open");
    this.anchor = null;
  }
}

function table(entry: TokenEntry, language: Language): HTMLElement {
  const words = WORDS[language];
  const candidates = rows(entry);
  const body = element("tbody", "", ...candidates.map((row) => line(row, language)));
  const rest = 1 - candidates.reduce((sum, row) => sum + probability(row.logprob), 0);
  if (rest > 0.0005) body.append(restLine(rest, words.others, language));
  const heads = [words.token, "", "p", words.logprob].map((word) => {
    const head = element("th", "", word);
    head.scope = "col";
    return head;
  });
  return element("table", "", element("thead", "", element("tr", "", ...heads)), body);
}

function line(row: Row, language: Language): HTMLElement {
  const p = probability(row.logprob);
  const name = element("th", "", element("code", "", visible(row.token)));
  name.scope = "row";
  if (row.chosen) name.append(element("span", "hidden", ` (${WORDS[language].chosen})`));
  return element(
    "tr",
    row.chosen ? "chosen" : "",
    name,
    element("td", "bar", bar(p)),
    element("td", "number", percent(p, language)),
    element("td", "number", row.logprob.toLocaleString(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 })),
  );
}

function restLine(p: number, label: string, language: Language): HTMLElement {
  const name = element("th", "", label);
  name.scope = "row";
  const number = element("td", "number", percent(p, language));
  return element("tr", "rest", name, element("td", "bar", bar(p)), number, element("td"));
}

function bar(p: number): HTMLElement {
  const made = element("span");
  made.style.setProperty("width", `${Math.max(1, p * 100).toFixed(1)}%`);
  return made;
}
