/** The tab in which things are run: one run or two side by side, found again after a reload. */

import { follow, get, isServerGone, post, Refusal, remove } from "./api.js";
import { Canvas } from "./canvas.js";
import { announce, byId, make } from "./elements.js";
import { modelClass } from "./lanes.js";
import { RunView } from "./run_view.js";
import { Settings } from "./settings.js";
import { openTab } from "./tabs.js";

export class SampleTab {
  /** `onRuns` is told the ids of the runs on show, for the address of the page. */
  constructor(setup, onRuns) {
    this.setup = setup;
    this.onRuns = onRuns;
    this.views = [];
    this.streams = new AbortController();
    this.showLegend();
    this.settings = new Settings(setup, () => this.preview());
    byId("controls").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    for (const id of ["stop", "stop-here"]) byId(id).addEventListener("click", () => this.stop());
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("connection", () => this.changed());
  }

  key(event) {
    if (document.querySelector("dialog[open]") || document.body.dataset.tab !== "sample") return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.run();
    } else if (event.key === "Escape" && this.isRunning) this.stop();
  }

  get isRunning() {
    return this.views.some((view) => view.state && !view.state.isOver && !view.lost);
  }

  showLegend() {
    const written = this.setup.models.map(({ key }) => make("span", { class: `by ${modelClass(key)}` }, `written by ${key}`));
    byId("legend").replaceChildren(...written, make("span", {}, "given"), make("span", {}, make("span", { class: "mask" }), " masked"),
      make("span", { class: "when-two" }, make("span", { class: "differs" }, make("span", { class: "by" }, "line above")), " differs"));
  }

  /** Show what would be run, unless a run is on show. */
  preview() {
    if (this.views.some((view) => view.state) || !this.settings.found?.schedules.length) return;
    const { found } = this.settings;
    const { num_samples: wanted } = this.settings.read();
    const numSamples = Math.min(Math.max(1, wanted || 1), this.setup.limits.samples);
    this.arrange(found.schedules.length);
    this.views.forEach((view, side) => view.preview({
      template: found.text.template ?? null, numSamples, ...found.schedules[side], reference: this.setup.reference, name: this.nameOf(side) }));
  }

  /** Have one view for each run, with the names A and B where there are two. */
  arrange(count) {
    if (this.views.length !== count) {
      this.views = Array.from({ length: count }, () => new RunView(() => this.changed()));
      byId("views").replaceChildren(...this.views.map((view) => view.element));
      if (count === 2) [this.views[0].rival, this.views[1].rival] = [this.views[1], this.views[0]];
    }
    byId("views").dataset.count = String(count);
    byId("difference").textContent = "";
  }

  nameOf(side) {
    return this.views.length === 2 ? "AB"[side] : "";
  }

  async run() {
    if (this.isStarting || this.isRunning) return;
    this.isStarting = true;
    byId("run").disabled = true;
    this.say("");
    this.changed();
    try {
      await this.begin();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.say(error.message);
    } finally {
      this.isStarting = false;
      this.changed();
    }
  }

  async begin() {
    if (!(await this.settings.isValid())) {
      const field = this.settings.firstFault;
      field?.focus();
      announce("Nothing was started: something in the fields has to be mended first.");
      return;
    }
    const { text, steps, new_tokens: newTokens, num_samples: numSamples, seed, temperature } = this.settings.read();
    const common = { text, steps, num_samples: numSamples, seed, temperature,
      new_tokens: Number.isInteger(newTokens) ? newTokens : this.setup.defaults.new_tokens };
    const runs = [];
    if (this.settings.schedules().length === 2) common.pair = pairName();
    try {
      for (const schedule of this.settings.schedules()) runs.push(await post("runs", { ...common, schedule }));
    } catch (error) {
      for (const run of runs) remove(`runs/${run.id}`);
      throw error;
    }
    this.show(runs);
    announce(`Running ${runs.map((run) => run.schedule).join(" and ")}`);
    if (window.matchMedia("(max-width: 62rem)").matches) {
      const isCalm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      byId("stage").scrollIntoView({ behavior: isCalm ? "auto" : "smooth", block: "start" });
    }
  }

  /** Show runs of which the server says this, and follow them. */
  show(runs) {
    this.streams.abort();
    this.streams = new AbortController();
    this.views = [];
    this.arrange(runs.length);
    this.onRuns(runs.map((run) => run.id));
    runs.forEach((info, side) => this.views[side].begin(info, this.nameOf(side)));
    this.views.forEach((view) => this.follow(view, this.streams.signal));
    this.changed();
  }

  async follow(view, signal) {
    try {
      for await (const event of follow(view.state.info.id, signal)) view.push(event);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) throw error;
      view.lose("the server was started anew and no longer knows this run");
      this.changed();
    }
  }

  /** Show runs again by their ids: after a reload, or out of the list of past ones. */
  async open(ids) {
    try {
      const runs = await Promise.all(ids.map((id) => get(`runs/${id}`)));
      const [{ settings }, second] = runs;
      this.settings.write({ ...settings, ...(second ? { second: second.settings.schedule } : {}), compares: Boolean(second) });
      this.show(runs);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.say(`That run cannot be shown again: ${error.message}`);
      this.clear();
    }
  }

  /** Forget what is on show, and preview what stands in the fields. */
  clear() {
    this.streams.abort();
    this.views = [];
    byId("views").replaceChildren();
    this.onRuns([]);
    if (this.settings.found) this.preview();
    this.changed();
  }

  /** Take over settings from another tab; `runs` them at once where it is told to. */
  use(values, { starts = false } = {}) {
    openTab("sample");
    if (!this.isRunning) this.clear();
    this.settings.write(values);
    byId(starts ? "run" : "schedule").focus();
    if (starts) this.run();
  }

  stop() {
    for (const view of this.views) {
      if (view.state && !view.state.isOver) remove(`runs/${view.state.info.id}`).catch(() => {});
    }
  }

  say(message) {
    byId("run-message").textContent = message;
  }

  /** Why nothing can be started, where the server is the reason. */
  sayWaiting() {
    const line = byId("run-message");
    if (isServerGone() && this.isStarting) this.say("The server does not answer: this run starts once it does.");
    else if (isServerGone() && this.isRunning) this.say("A run is under way at a server that does not answer: it goes on here once it does.");
    else if (line.dataset.waits) this.say("");
    if (isServerGone() && (this.isStarting || this.isRunning)) line.dataset.waits = "yes";
    else delete line.dataset.waits;
  }

  changed() {
    const { isRunning } = this;
    this.sayWaiting();
    byId("run").disabled = Boolean(isRunning || this.isStarting);
    byId("stop").disabled = !isRunning;
    byId("stop-here").hidden = !isRunning;
    document.body.dataset.running = String(isRunning);
    byId("views").setAttribute("aria-busy", String(isRunning));
    if (this.views.length !== 2 || !this.views.every((view) => view.state)) return;
    const { differing, known } = Canvas.compare(this.views[0].canvas, this.views[1].canvas);
    byId("difference").textContent = known ? `${differing} of ${known} tokens differ${isRunning ? " so far" : ""}` : "";
    const other = (view) => view.state.isOver && view.figures.showRun(view.state, view.rival.state);
    this.views.forEach(other);
  }
}

/** A name that two runs have in common; nobody else's are told apart by it. */
function pairName() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
