import { describe, expect, it } from "vitest";
import { place } from "../src/place";
import { chatBody, defaults, loadSettings, saveSettings } from "../src/state";
import { WORDS } from "../src/words";

const storage = (text: string | null) => ({ getItem: () => text });

describe("settings", () => {
  it("follow the browser's language", () => {
    expect(defaults(["pt-BR", "en"]).language).toBe("pt");
    expect(defaults(["en-US", "pt"]).language).toBe("en");
    expect(defaults([]).language).toBe("en");
  });

  it("come back as they were saved", () => {
    let text = "";
    const settings = { ...defaults(["en"]), temperature: 0, seed: 7, tint: false, theme: "dark" as const };
    saveSettings({ setItem: (_, value) => (text = value) }, settings);
    expect(loadSettings(storage(text), ["pt"])).toEqual(settings);
  });

  it("survive storage that holds something else", () => {
    const known = defaults(["en"]);
    for (const text of [null, "", "{", "null", "5", '{"temperature":"hot","theme":"pink","seed":1e999,"tint":1}'])
      expect(loadSettings(storage(text), ["en"])).toEqual(known);
  });
});

describe("chatBody", () => {
  const turns = [
    { role: "user", text: "hi" },
    { role: "assistant", text: "" },
    { role: "user", text: "again" },
  ] as const;

  it("sends what was set and nothing else", () => {
    const body = chatBody("m", { ...defaults([]), maxTokens: null }, turns);
    expect(body).toEqual({
      model: "m",
      messages: [{ role: "user", content: "hi" }, { role: "user", content: "again" }],
    });
  });

  it("puts the system prompt first, and keeps a temperature and a seed of zero", () => {
    const body = chatBody("m", { ...defaults([]), system: "be brief", temperature: 0, seed: 0 }, turns);
    expect(body.messages[0]).toEqual({ role: "system", content: "be brief" });
    expect([body.temperature, body.seed, body.max_tokens, body.top_p]).toEqual([0, 0, 512, undefined]);
  });
});

describe("place", () => {
  const view = { width: 360, height: 700 };
  const size = { width: 290, height: 200 };

  it("goes to the side asked for where there is room, else to the other", () => {
    const at = (top: number, side: "above" | "below") =>
      place({ left: 100, top, width: 20, height: 20 }, size, view, side).top;
    expect([at(400, "above"), at(50, "above")]).toEqual([192, 78]);
    expect([at(400, "below"), at(600, "below")]).toEqual([428, 392]);
  });

  it("stays inside the window", () => {
    for (const left of [0, 170, 350])
      for (const top of [0, 300, 690]) {
        const at = place({ left, top, width: 10, height: 20 }, size, view, "above");
        expect(at.left).toBeGreaterThanOrEqual(8);
        expect(at.left + size.width).toBeLessThanOrEqual(352);
        expect(at.top).toBeGreaterThanOrEqual(8);
      }
  });
});

it("has every word in both languages", () => {
  expect(Object.keys(WORDS.pt)).toEqual(Object.keys(WORDS.en));
  for (const words of Object.values(WORDS)) for (const word of Object.values(words)) expect(word.length).toBeGreaterThan(0);
});
