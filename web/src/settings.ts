// The settings dialog: its fields are the settings.

import { find } from "./dom";
import { defaults, loadKey, saveKey, type Settings, type Theme } from "./state";

const NUMBERS = ["temperature", "topP", "maxTokens", "seed"] as const;

export class SettingsDialog {
  private readonly dialog = find<HTMLDialogElement>("settings");
  private readonly form = this.dialog.querySelector("form") as HTMLFormElement;

  constructor(
    private readonly settings: Settings,
    private readonly changed: () => void,
  ) {
    this.form.addEventListener("change", () => this.read());
    this.form.addEventListener("submit", () => this.read());
    find("reset").addEventListener("click", () => {
      const { language, tint } = settings; // these two have their own buttons
      Object.assign(settings, defaults([]), { language, tint });
      this.write();
      this.changed();
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
  }

  get isOpen(): boolean {
    return this.dialog.open;
  }

  open(field?: string): void {
    this.write();
    if (!this.dialog.open) this.dialog.showModal();
    if (field !== undefined) this.field(field).focus();
  }

  private field(name: string): HTMLInputElement {
    return this.form.elements.namedItem(name) as HTMLInputElement;
  }

  private write(): void {
    this.field("system").value = this.settings.system;
    this.field("theme").value = this.settings.theme;
    this.field("key").value = loadKey();
    for (const name of NUMBERS) this.field(name).value = this.settings[name]?.toString() ?? "";
  }

  /** Takes over what is valid; the browser marks what is not. */
  private read(): void {
    this.settings.system = this.field("system").value;
    this.settings.theme = this.field("theme").value as Theme;
    saveKey(this.field("key").value.trim());
    for (const name of NUMBERS) {
      const field = this.field(name);
      if (field.validity.valid) this.settings[name] = field.value === "" ? null : field.valueAsNumber;
    }
    this.changed();
  }
}
