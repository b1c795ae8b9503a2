/** What stands in the fields: read, written, kept for a reload, and judged by the server while one types. */

import { isServerGone, post, Refusal, stored } from "./api.js";
import { byId, make } from "./elements.js";
import { percent } from "./numbers.js";
import { showBar } from "./lanes.js";

const FIELDS = { steps: "steps", new_tokens: "new-tokens", num_samples: "num-samples", seed: "seed", temperature: "temperature" };
const LABELS = { steps: "Steps", new_tokens: "New tokens", num_samples: "Samples", seed: "Seed", temperature: "Temperature" };
const WAIT = 120; // milliseconds of rest before a draft is sent to be read

export const MAX_SEED = 2 ** 32 - 1; // of the dice; typed ones may be larger

export class Settings {
  /** `onRead` is called with each answer of the server about what stands in the fields. */
  constructor(setup, onRead) {
    this.setup = setup;
    this.onRead = onRead;
    this.found = null;
    byId("steps").max = setup.limits.steps;
    byId("num-samples").max = setup.limits.samples;
    byId("new-tokens").max = setup.max_length;
    byId("temperature").max = 100;
    byId("seed").max = Number.MAX_SAFE_INTEGER;
    this.fillPresets();
    this.write({ ...this.defaults, ...this.kept() });
    this.listen();
  }

  get defaults() {
    const { defaults, presets } = this.setup;
    return { text: "", schedule: (presets[1] ?? presets[0]).schedule, second: presets[0].schedule, compares: false,
      steps: defaults.steps, new_tokens: defaults.new_tokens, num_samples: 1, seed: 1, temperature: 1 };
  }

  kept() {
    try {
      return JSON.parse(stored("sessionStorage", "understudy-draft") ?? "{}");
    } catch {
      return {};
    }
  }

  fillPresets() {
    for (const id of ["preset", "preset-b"]) {
      const options = this.setup.presets.map((preset) => make("option", { value: preset.schedule, title: preset.why }, preset.name));
      byId(id).replaceChildren(...options, make("option", { value: "" }, "As typed"));
    }
  }

  listen() {
    byId("steps").addEventListener("input", () => {
      this.ownSteps = byId("steps").value;
    });
    for (const id of ["schedule", "schedule-b"]) byId(id).addEventListener("input", () => this.takeSteps(id));
    for (const id of ["text", "schedule", "schedule-b", ...Object.values(FIELDS)]) byId(id).addEventListener("input", () => this.changed());
    document.addEventListener("connection", () => this.sayUnread());
    byId("compare").addEventListener("change", () => this.changed());
    for (const [preset, field] of [["preset", "schedule"], ["preset-b", "schedule-b"]]) {
      byId(preset).addEventListener("change", () => {
        if (byId(preset).value) {
          byId(field).value = byId(preset).value;
          this.takeSteps(field);
        }
        this.changed();
      });
    }
    byId("dice").addEventListener("click", () => {
      byId("seed").value = String(Math.floor(Math.random() * MAX_SEED));
      this.changed();
    });
    byId("insert-gap").addEventListener("click", () => this.insertGap());
    for (const example of document.querySelectorAll("[data-example]")) {
      example.addEventListener("click", () => {
        byId("text").value = example.dataset.example;
        this.changed();
      });
    }
  }

  /** A schedule in counts says the steps; those of before come back once it is none any more. */
  takeSteps(id) {
    const steps = countedSteps(byId(id).value);
    byId("steps").value = steps && steps <= this.setup.limits.steps ? String(steps) : this.ownSteps;
  }

  /** While the server is gone, what it last said of the fields need not hold of what stands in them now. */
  sayUnread() {
    if (!isServerGone() || document.body.dataset.draft !== "reading") return;
    say("text", "text-message", "Not counted yet: the server does not answer.", false);
    for (const id of this.read().compares ? ["schedule", "schedule-b"] : ["schedule"]) {
      say(id, `${id}-message`, "Not read yet: the server does not answer.", false);
      byId(`${id}-bar`).classList.add("stale");
    }
  }

  insertGap() {
    const field = byId("text");
    field.setRangeText("[MASK*5]", field.selectionStart, field.selectionEnd, "end");
    field.focus();
    this.changed();
  }

  /** Put values into the fields; those that are left out stay. */
  write(values) {
    const places = { text: "text", schedule: "schedule", second: "schedule-b", ...FIELDS };
    for (const [name, id] of Object.entries(places)) {
      if (values[name] !== undefined && values[name] !== null) byId(id).value = String(values[name]);
    }
    if (values.compares !== undefined) byId("compare").checked = values.compares;
    if (values.steps !== undefined || this.ownSteps === undefined) this.ownSteps = byId("steps").value;
    this.changed();
  }

  /** What stands in the fields, numbers as numbers. */
  read() {
    const numbers = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, byId(id).valueAsNumber]));
    return { text: byId("text").value, schedule: byId("schedule").value, second: byId("schedule-b").value,
      compares: byId("compare").checked, ...numbers };
  }

  /** Schedules to run, one or two. */
  schedules() {
    const { schedule, second, compares } = this.read();
    return compares ? [schedule, second] : [schedule];
  }

  changed() {
    const values = this.read();
    stored("sessionStorage", "understudy-draft", JSON.stringify(values));
    byId("second").hidden = !values.compares;
    for (const [preset, field] of [["preset", "schedule"], ["preset-b", "schedule-b"]]) {
      const typed = byId(field).value.replace(/\s/g, "");
      byId(preset).value = this.setup.presets.some(({ schedule }) => schedule === typed) ? typed : "";
    }
    this.judgeNumbers();
    this.judgement?.abort();
    this.judgement = new AbortController();
    document.body.dataset.draft = "reading";
    this.sayUnread();
    const { signal } = this.judgement;
    this.answer = new Promise((resolve) => {
      const timer = setTimeout(() => resolve(this.ask(signal)), WAIT);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve(null);
      });
    });
  }

  /** Wait until what stands in the fields now has been read by the server; whether all of it can be run. */
  async isValid() {
    let last;
    do {
      last = this.answer;
      await last;
    } while (last !== this.answer);
    return this.firstFault === null && this.judgeNumbers() === null;
  }

  /** The first field with something wrong in it, null where there is none. */
  get firstFault() {
    return document.querySelector('#controls [aria-invalid="true"]:not([hidden] *)');
  }

  async ask(signal) {
    const { text, steps, new_tokens: newTokens } = this.read();
    const isCount = (value) => Number.isInteger(value) && value >= 1 && value <= 1e6;
    // Without a number of steps nothing can be said of a schedule, and nothing of it is wrong.
    const draft = { text, ...(isCount(steps) ? { schedules: this.schedules(), steps } : {}),
      new_tokens: isCount(newTokens) ? newTokens : this.setup.defaults.new_tokens };
    try {
      this.show(await post("drafts", draft, signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) throw error;
      say("text", "text-message", error.message, true);
    }
    document.body.dataset.draft = "read";
  }

  show(found) {
    this.found = found;
    const { error, given, wanted, has_gaps: hasGaps } = found.text;
    say("text", "text-message", error?.message ?? describeText(given, wanted, hasGaps), Boolean(error));
    byId("new-tokens").disabled = Boolean(hasGaps);
    ["schedule", "schedule-b"].forEach((id, side) => this.showSchedule(found.schedules[side], id, wanted));
    this.onRead(found);
  }

  showSchedule(found, id, wanted) {
    const bar = byId(`${id}-bar`);
    if (!found) {
      say(id, `${id}-message`, "", false);
      return;
    }
    bar.classList.toggle("stale", Boolean(found.error));
    if (found.error) {
      say(id, `${id}-message`, faultIn(byId(id).value, found.error), true);
      if (!bar.firstChild) showBar(bar, null);
      return;
    }
    showBar(bar, found.segments);
    say(id, `${id}-message`, describeSchedule(found, wanted), false);
  }

  /** Check the fields that hold numbers; gives what is wrong with the first, null where all are right. */
  judgeNumbers() {
    let fault = null;
    for (const [name, id] of Object.entries(FIELDS)) {
      const field = byId(id);
      const isWrong = !field.disabled && !field.validity.valid;
      field.setAttribute("aria-invalid", String(isWrong));
      if (isWrong && !fault) fault = `${LABELS[name]}: ${rangeOf(field)}`;
    }
    byId("numbers-message").textContent = fault ?? "";
    byId("numbers-message").classList.toggle("error", Boolean(fault));
    return fault;
  }
}

function rangeOf(field) {
  const kind = field.step === "1" ? "a whole number" : "a number";
  if (field.id === "seed") return `${kind} from 0 to ${field.max}`;
  return `${kind} from ${field.min} to ${field.max}`;
}

function say(id, messageId, message, isWrong) {
  const line = byId(messageId);
  byId(id).setAttribute("aria-invalid", String(isWrong));
  line.classList.toggle("error", isWrong);
  line.replaceChildren(...(Array.isArray(message) ? message : [message]));
}

function describeText(given, wanted, hasGaps) {
  if (hasGaps) return `${given} tokens given, ${wanted} to fill in`;
  return given ? `${given} tokens given, ${wanted} to write after them` : `${wanted} tokens to write`;
}

/** The path KL is that of the texts that were analysed, free from beginning to end: another length has another one. */
function describeSchedule({ schedule, expected, path_kl: pathKl }, wanted) {
  const saves = expected ? `saves ${percent(expected.flops.schedule_saved)} by itself` : schedule;
  if (!pathKl) return saves;
  if (pathKl.mean === 0) return `${saves}; path KL 0`;
  const others = wanted === pathKl.length ? "" : `, not these ${wanted}`;
  return `${saves}; path KL ${pathKl.mean.toFixed(1)} nats for ${pathKl.length} free tokens without a prefix${others}`;
}

/** Steps of a schedule written in counts, null for any other. */
function countedSteps(text) {
  const plain = text.replace(/\s/g, "");
  if (!/^\(?[A-Za-z]\d{1,7}(,[A-Za-z]\d{1,7})*\)?$/.test(plain)) return null;
  return [...plain.matchAll(/\d+/g)].reduce((sum, [count]) => sum + Number(count), 0);
}

/** The schedule as typed with the place of the fault marked, and the parser's own words. */
function faultIn(text, { message, column }) {
  if (column === null || !text) return message;
  const start = Math.max(0, column - 25);
  const before = `${start ? "\u2026" : ""}${text.slice(start, column - 1)}`;
  const after = text.slice(column, column + 24);
  const at = make("span", { class: "at" }, text[column - 1] ?? "\u00a0");
  return [make("span", { class: "code", "aria-hidden": "true" }, before, at, after), message];
}
