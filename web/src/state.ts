// What the page remembers: the settings (in the browser's storage) and the conversation (until it is left).

import type { ApiMessage, ChatBody } from "./api";
import type { Language } from "./words";

export type Theme = "system" | "light" | "dark";

/** null leaves the choice to the model. */
export interface Settings {
  system: string;
  temperature: number | null;
  topP: number | null;
  maxTokens: number | null;
  seed: number | null;
  theme: Theme;
  tint: boolean;
  language: Language;
}

export interface Turn {
  role: "user" | "assistant";
  text: string;
}

const STORE = "vitral.settings";
const KEY = "vitral.key";
const THEMES: readonly Theme[] = ["system", "light", "dark"];

export function defaults(languages: readonly string[]): Settings {
  const portuguese = languages[0]?.toLowerCase().startsWith("pt") ?? false;
  return {
    system: "",
    temperature: null,
    topP: null,
    maxTokens: 512,
    seed: null,
    theme: "system",
    tint: true,
    language: portuguese ? "pt" : "en",
  };
}

/** Settings from storage; what is missing or does not fit is taken from the defaults. */
export function loadSettings(storage: Pick<Storage, "getItem">, languages: readonly string[]): Settings {
  const known = defaults(languages);
  let stored: Record<string, unknown> = {};
  try {
    const value: unknown = JSON.parse(storage.getItem(STORE) ?? "{}");
    if (typeof value === "object" && value !== null) stored = value as Record<string, unknown>;
  } catch {
    return known; // storage that cannot be read holds nothing worth keeping
  }
  const number = (name: "temperature" | "topP" | "maxTokens" | "seed"): number | null => {
    const value = stored[name];
    return value === null || (typeof value === "number" && Number.isFinite(value)) ? value : known[name];
  };
  return {
    system: typeof stored["system"] === "string" ? stored["system"] : known.system,
    temperature: number("temperature"),
    topP: number("topP"),
    maxTokens: number("maxTokens"),
    seed: number("seed"),
    theme: THEMES.find((theme) => theme === stored["theme"]) ?? known.theme,
    tint: typeof stored["tint"] === "boolean" ? stored["tint"] : known.tint,
    language: stored["language"] === "pt" || stored["language"] === "en" ? stored["language"] : known.language,
  };
}

export function saveSettings(storage: Pick<Storage, "setItem">, settings: Settings): void {
  storage.setItem(STORE, JSON.stringify(settings));
}

/** The API key is kept for this tab alone. */
export function loadKey(): string {
  return sessionStorage.getItem(KEY) ?? "";
}

export function saveKey(key: string): void {
  sessionStorage.setItem(KEY, key);
}

/** The request for the conversation so far. Answers that stayed empty are left out. */
export function chatBody(model: string, settings: Settings, turns: readonly Turn[]): ChatBody {
  const messages: ApiMessage[] = turns
    .filter((turn) => turn.text !== "")
    .map((turn) => ({ role: turn.role, content: turn.text }));
  if (settings.system.trim() !== "") messages.unshift({ role: "system", content: settings.system });
  return {
    model,
    messages,
    ...(settings.temperature === null ? {} : { temperature: settings.temperature }),
    ...(settings.topP === null ? {} : { top_p: settings.topP }),
    ...(settings.maxTokens === null ? {} : { max_tokens: settings.maxTokens }),
    ...(settings.seed === null ? {} : { seed: settings.seed }),
  };
}
