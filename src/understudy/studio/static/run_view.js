/** One run on the page: its schedule to scale, its text, its counters. Events are shown once per animation frame. */

import { Canvas } from "./canvas.js";
import { announce, make } from "./elements.js";
import { Figures } from "./figures.js";
import { describeSegments, drawLanes, laneKeys, markMade, modelClass } from "./lanes.js";
import { RunState } from "./run_state.js";

const CALM = 24; // more events than this in one frame are a replay: none of them is emphasised

export class RunView {
  /** `onChange` is called after each frame in which something happened. */
  constructor(onChange) {
    this.onChange = onChange;
    this.state = null;
    this.queue = [];
    this.rival = null;
    this.canvas = new Canvas();
    this.figures = new Figures();
    this.title = make("h2");
    this.status = make("span", { class: "state" });
    this.track = make("div", { class: "track", role: "img" });
    this.lanes = make("div", { class: "lane-names", "aria-hidden": "true" });
    this.axis = [make("span", {}, "all masked"), make("span"), make("span", {}, "clean")];
    this.element = make("article", { class: "run", "data-state": "preview" },
      make("header", { class: "run-head" }, this.title, this.status),
      make("div", { class: "timeline" }, this.lanes, this.track, make("div", { class: "axis" }, ...this.axis)),
      this.canvas.element, this.figures.element);
  }

  /** Show what would be run: template and schedule as far as they are valid. */
  preview({ template, numSamples, segments, schedule, expected, reference, name }) {
    this.state = null;
    this.queue = [];
    this.element.dataset.state = "preview";
    this.setTitle(name, schedule ?? "no valid schedule");
    this.status.textContent = "";
    if (template) this.canvas.lay(template, numSamples);
    if (segments) this.drawTrack(segments, 0);
    if (expected) this.figures.showExpected(expected, numSamples, reference);
    else this.figures.showNothing();
  }

  /** Begin to show a run, of which the server says `info`. */
  begin(info, name) {
    this.state = new RunState(info);
    this.queue = [];
    this.element.dataset.run = info.id;
    this.setTitle(name, info.schedule);
    this.canvas.lay(info.template, info.num_samples);
    this.canvas.hold();
    this.drawTrack(info.segments, info.num_samples);
    this.show();
  }

  setTitle(name, schedule) {
    this.title.replaceChildren(name ? `${name} ` : "", make("code", { title: schedule }, schedule));
  }

  drawTrack(segments, heads) {
    const keys = laneKeys();
    const steps = segments.reduce((sum, [, count]) => sum + count, 0);
    this.lanes.replaceChildren(...keys.map((key) => make("span", { class: modelClass(key), "data-key": key }, key)));
    this.marks = drawLanes(segments);
    this.heads = Array.from({ length: heads }, () => make("span", { class: "head" }));
    this.track.replaceChildren(this.marks, ...this.heads);
    this.track.setAttribute("aria-label", describeSegments(segments));
    this.axis[1].textContent = `${steps} steps`;
    this.steps = steps;
  }

  /** Take an event; it is shown in the next frame, with all others that came until then. */
  push(event) {
    this.queue.push(event);
    if (this.queue.length === 1) schedule(() => this.flush());
  }

  flush() {
    const events = this.queue;
    this.queue = [];
    if (!this.state) return;
    for (const event of events) {
      this.state.apply(event);
      if (event.kind === "reveal") this.canvas.reveal(event, events.length <= CALM);
      else if (event.kind === "done") this.canvas.settle(event.rows);
    }
    if (events.length) this.show();
  }

  /** The server no longer knows this run; what was shown stays. */
  lose(message) {
    this.lost = message;
    this.element.dataset.state = "lost";
    this.status.textContent = message;
  }

  show() {
    const { state } = this;
    this.element.dataset.state = state.state;
    this.status.textContent = statusOf(state);
    markMade(this.marks, state.made);
    this.heads.forEach((head, sample) => head.style.setProperty("--at", String((state.at[sample] + 1) / this.steps)));
    for (const lane of this.lanes.children) lane.classList.toggle("working", lane.dataset.key === state.working);
    this.figures.showRun(state, this.rival?.state ?? null);
    if (state.isOver && !state.isAnnounced) {
      state.isAnnounced = true;
      announce(`${this.title.textContent}: ${statusOf(state)}`);
    }
    this.onChange();
  }
}

/** Frames do not come while a page is hidden; a run must go on there too. */
function schedule(action) {
  if (document.visibilityState === "hidden") setTimeout(action, 100);
  else requestAnimationFrame(action);
}

function statusOf(state) {
  const { info } = state;
  const planned = Object.values(info.planned).reduce((sum, value) => sum + value, 0);
  if (state.state === "waiting") return "waiting for a place";
  if (state.state === "done") return "finished";
  if (state.state === "failed") return `failed: ${state.message}`;
  if (state.state === "cancelled") return `stopped after ${state.totalPasses} of ${planned} passes`;
  if (!state.working) return "starting";
  const where = info.num_samples === 1 ? `step ${state.at[0] + 1} of ${info.steps}` : `pass ${state.totalPasses} of ${planned}`;
  return `${where} \u00b7 ${state.working} at work`;
}
