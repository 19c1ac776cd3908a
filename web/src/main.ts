// The page: joins the state, the API and the views.

import { Answer, type Ending } from "./answer";
import { ApiError, listModels, streamChat, type Model, type Usage } from "./api";
import { element, find } from "./dom";
import { Popover } from "./popover";
import { rose } from "./rose";
import { SettingsDialog } from "./settings";
import { chatBody, loadKey, loadSettings, saveSettings, type Turn } from "./state";
import { LEVELS } from "./tokens";
import { WORDS, say, translate, type Label, type Words } from "./words";

const settings = loadSettings(localStorage, navigator.languages);
let turns: Turn[] = [];
const popover = new Popover();
const dialog = new SettingsDialog(settings, applySettings);
let models: Model[] = [];
let running: AbortController | null = null;

const prompt = find<HTMLTextAreaElement>("prompt");
const list = find("turns");
const modelSelect = find<HTMLSelectElement>("model");

function words(): Words {
  return WORDS[settings.language];
}

// ---- settings and language ----

function applySettings(): void {
  saveSettings(localStorage, settings);
  const root = document.documentElement;
  root.lang = settings.language === "pt" ? "pt-BR" : "en";
  root.dataset["theme"] = settings.theme;
  root.classList.toggle("tinted", settings.tint);
  find("tint").setAttribute("aria-pressed", String(settings.tint));
  translate(document, settings.language);
  drawLegend();
  drawExamples();
  describeModel();
}

function drawLegend(): void {
  const panes = Array.from({ length: LEVELS.length + 1 }, (_, i) => {
    const pane = element("i");
    pane.dataset["level"] = String(i);
    return pane;
  });
  find("legend").replaceChildren(words().sure, ...panes, words().doubtful);
}

function drawExamples(): void {
  const buttons = words().examples.map((text) => {
    const button = element("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => void send(text));
    return button;
  });
  find("examples").replaceChildren(...buttons);
}

// ---- models ----

async function loadModels(): Promise<void> {
  try {
    models = (await listModels(loadKey())).filter((model) => model.chat !== false);
    modelSelect.replaceChildren(...models.map((model) => new Option(model.id, model.id)));
    describeModel();
    if (models.length === 0) notice(words().noModel);
  } catch (fault) {
    explain(fault, notice);
  }
}

function describeModel(): void {
  modelSelect.disabled = models.length < 2;
  const model = models.find((known) => known.id === modelSelect.value);
  const facts: string[] = [];
  if (model?.parameters) {
    const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
    facts.push(short.format(model.parameters));
  }
  if (model?.context) facts.push(`${model.context.toLocaleString(settings.language)} ${words().context}`);
  if (model?.licence) facts.push(model.licence);
  find("about").textContent = facts.join(" · ");
}

// ---- the conversation ----

async function send(text: string): Promise<void> {
  if (text.trim() === "" || running !== null) return;
  turns.push({ role: "user", text });
  find("welcome").hidden = true;
  const name = say(element("h3"), "you", settings.language);
  list.append(element("article", "turn user", name, element("div", "text", text)));
  await answer();
}

async function answer(): Promise<void> {
  const controller = (running = new AbortController());
  const mine = turns; // a new conversation may begin while this answer is still being stopped
  const model = modelSelect.value;
  const view = new Answer(model, () => settings.language, popover);
  list.querySelectorAll(".again").forEach((button) => button.remove()); // only the last answer can be made again
  list.append(view.root);
  showRunning(true);
  scrollDown(true);
  let ending: Ending = "error";
  let usage: Usage | null = null;
  try {
    for await (const event of streamChat(chatBody(model, settings, mine), loadKey(), controller.signal)) {
      if (event.kind === "prompt") view.prompt(event.text);
      else if (event.kind === "token") view.push(event.text, event.entries);
      else if (event.kind === "finish") ending = event.reason === "length" ? "length" : "stop";
      else usage = event.usage;
      scrollDown(false);
    }
  } catch (fault) {
    if (controller.signal.aborted) ending = "stopped";
    else explain(fault, (message) => view.fail(message));
  }
  if (view.text !== "" || ending === "stop" || ending === "length") {
    mine.push({ role: "assistant", text: view.text });
    view.finish(ending, usage, [copyButton(view), againButton(view)]);
  } else {
    view.finish(ending, usage, []);
    takeBack(mine);
  }
  running = null;
  showRunning(false);
  scrollDown(view.text === "" && mine === turns); // a message that comes back makes the composer grow over the error
}

/** A message that got no answer leaves the conversation, and comes back to be changed or sent again. */
function takeBack(from: Turn[]): void {
  const turn = from.pop();
  if (from !== turns || turn === undefined || prompt.value !== "") return;
  prompt.value = turn.text;
  fitPrompt();
}

function button(label: Label, onClick: () => void, className = ""): HTMLElement {
  const made = say(element("button", className), label, settings.language);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

function copyButton(view: Answer): HTMLElement {
  const made = button("copy", () => {
    void navigator.clipboard.writeText(view.text).then(() => {
      say(made, "copied", settings.language);
      setTimeout(() => say(made, "copy", settings.language), 1500);
    });
  });
  return made;
}

function againButton(view: Answer): HTMLElement {
  const again = (): void => {
    if (running !== null) return;
    popover.hide();
    turns.pop();
    view.root.remove();
    void answer();
  };
  return button("again", again, "again");
}

function showRunning(yes: boolean): void {
  find("send").hidden = yes;
  find("stop").hidden = !yes;
  find("status").textContent = yes ? words().answering : words().finished;
}

function clear(): void {
  running?.abort();
  popover.hide();
  turns = [];
  list.replaceChildren();
  find("welcome").hidden = false;
  prompt.focus();
}

/** Follows the text while the reader is at its end, and leaves a reader who has scrolled up alone. */
function scrollDown(always: boolean): void {
  const page = document.documentElement;
  if (always || page.scrollHeight - page.scrollTop - page.clientHeight < 120) page.scrollTop = page.scrollHeight;
}

// ---- faults ----

function explain(fault: unknown, show: (message: string) => void): void {
  if (!(fault instanceof ApiError)) return show(fault instanceof TypeError ? words().unreachable : String(fault));
  if (fault.status === 401) {
    show(words().needsKey);
    dialog.open("key");
  } else show(fault.code === "stream_cut" ? words().streamCut : fault.message);
}

function notice(message: string): void {
  const box = element("p", "error", message);
  box.role = "alert";
  list.append(box);
}

// ---- events ----

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running !== null) return;
  const text = prompt.value;
  prompt.value = "";
  fitPrompt();
  void send(text);
});
prompt.addEventListener("input", fitPrompt);
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find<HTMLFormElement>("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || dialog.isOpen) return;
  popover.hide();
  running?.abort();
});
find("stop").addEventListener("click", () => {
  running?.abort();
  prompt.focus();
});
find("fresh").addEventListener("click", clear);
find("tint").addEventListener("click", () => {
  settings.tint = !settings.tint;
  applySettings();
});
find("language").addEventListener("click", () => {
  settings.language = settings.language === "pt" ? "en" : "pt";
  applySettings();
});
find("open-settings").addEventListener("click", () => dialog.open());
find("settings").addEventListener("close", () => {
  if (models.length === 0) {
    list.querySelectorAll(":scope > .error").forEach((box) => box.remove());
    void loadModels();
  }
});
modelSelect.addEventListener("change", describeModel);
window.addEventListener("scroll", () => popover.move(), { passive: true });
window.addEventListener("resize", () => popover.hide());
document.addEventListener("pointerdown", (event) => {
  if (!(event.target instanceof Element) || event.target.closest(".answer, #popover") === null) popover.hide();
});

function fitPrompt(): void {
  prompt.style.setProperty("height", "auto");
  prompt.style.setProperty("height", `${prompt.scrollHeight}px`);
}

find("rose").append(rose());
find("mark").append(rose());
applySettings();
void loadModels();
