/** The counters below a text: passes, FLOPs by every convention, time. */

import { make } from "./elements.js";
import { laneKeys, modelClass } from "./lanes.js";
import { count, figures, milliseconds, percent, scaled, seconds } from "./numbers.js";

/** Build the list; `show` fills it again and again. */
export class Figures {
  constructor() {
    this.passes = cell("Passes");
    this.executed = cell("FLOPs executed");
    this.saved = cell("FLOPs saved", "wide");
    this.time = cell("Time at work", "", "so far");
    this.timeSaved = cell("Time saved", "saved-time", "so far");
    const cells = [this.passes, this.time, this.timeSaved, this.executed, this.saved];
    this.element = make("dl", { class: "figures" }, ...cells.map((entry) => entry.element));
    this.shares = ["schedule_saved", "executed_saved", "nominal_blocks_saved", "nominal_saved"].map((name) =>
      [name, make("b"), make("span")]);
    const soFar = { schedule_saved: true, executed_saved: true }; // what is nominal is known beforehand
    this.saved.value.remove();
    this.saved.detail.className = "shares";
    this.saved.detail.replaceChildren(...this.shares.map(([name, share, words]) =>
      make("div", {}, share, make("span", {}, words, soFar[name] ? make("span", { class: "so-far" }, ", so far") : null))));
  }

  /** Before a run: what one sample is expected to cost. */
  showExpected(expected, numSamples, reference) {
    this.element.dataset.phase = "expected";
    this.showPasses(expected.passes, numSamples > 1 ? "expected for a sample" : "expected");
    this.showFlops(expected.flops, reference, "expected");
    this.time.show("\u2013", "known after a run");
    this.timeSaved.show("\u2013", "");
  }

  showNothing() {
    this.element.dataset.phase = "empty";
    for (const entry of [this.passes, this.executed, this.time, this.timeSaved]) entry.show("\u2013", "");
    for (const [, share, words] of this.shares) {
      share.textContent = "\u2013";
      words.textContent = "";
    }
  }

  /** During and after a run. `rival` is the run beside it, if there is one. */
  showRun(state, rival) {
    const { info } = state;
    this.element.dataset.phase = state.state;
    const planned = Object.values(info.planned).reduce((sum, value) => sum + value, 0);
    this.showPasses(state.passes, state.isOver && state.totalPasses === planned ? "" : `of ${planned}`);
    this.showFlops(state.flops, info.reference, "");
    this.showTime(state, rival);
  }

  showPasses(passes, suffix) {
    const total = Object.values(passes).reduce((sum, value) => sum + value, 0);
    const chips = laneKeys().filter((key) => key in passes).flatMap((key) =>
      [make("b", { class: `by chip ${modelClass(key)}` }, key), ` ${count(passes[key])}\u2002`]);
    this.passes.show(count(total), chips, suffix);
  }

  showFlops(flops, reference, suffix) {
    const [value, prefix] = scaled(flops.executed);
    this.executed.show(value, "2 for each multiply-add", `${prefix}FLOPs${suffix ? ` ${suffix}` : ""}`);
    const words = {
      schedule_saved: `by the schedule alone, against ${reference} making the same passes`,
      executed_saved: `in all, against a full pass of ${reference} at every step`,
      nominal_blocks_saved: "nominal: every step a full pass, blocks only",
      nominal_saved: "nominal, with the output head",
    };
    for (const [name, share, text] of this.shares) {
      share.textContent = flops[name] === null || flops[name] === undefined ? "\u2013" : percent(flops[name]);
      text.textContent = words[name];
    }
  }

  showTime(state, rival) {
    const { info } = state;
    const each = laneKeys().filter((key) => info.keys.includes(key)).map((key) => [key, state.passTime(key)]).filter(([, time]) => time !== null);
    const detail = `${each.map(([key, time]) => `${key}\u00a0${figures(time)}`).join(", ")}\u00a0ms a\u00a0pass`;
    const elapsed = state.timeAtWork / 1000;
    this.time.show(elapsed ? seconds(elapsed) : "\u2013", each.length ? detail : "", elapsed ? "s" : "");
    const [share, how] = timeSaved(state, rival);
    this.timeSaved.show(share === null ? "\u2013" : percent(share), how);
  }
}

/** Share of time saved against the costliest model alone, and how that is known. */
function timeSaved(state, rival) {
  const { reference } = state.info;
  const isAlone = (other) => Object.keys(other.info.planned).every((key) => key === reference);
  if (isAlone(state)) return [null, `this is ${reference} alone`];
  if (rival && isAlone(rival)) {
    if (!(state.result && rival.result && rival.timeAtWork)) return [null, `measured when both are done`];
    return [1 - state.timeAtWork / rival.timeAtWork, `measured: ${reference} alone, beside this, took ${seconds(rival.timeAtWork / 1000)} s`];
  }
  const pass = state.passTime(reference);
  if (pass === null) {
    return [null, state.isOver ? `${reference} made no pass here: run it beside this` : ""];
  }
  const usual = Object.entries(state.passes).reduce((sum, [key, passes]) => sum + passes * (state.passTime(key) ?? 0), 0);
  return [1 - usual / (pass * state.totalPasses), `estimated from ${milliseconds(pass)} a pass of ${reference}, the median here`];
}

/** `until`: what stands behind the title while a run is not finished; its room is kept, so that nothing moves. */
function cell(title, kind, until) {
  const heading = make("dt", {}, title, until ? make("span", { class: "so-far" }, ` ${until}`) : null);
  const number = make("span");
  const unit = make("small");
  const value = make("dd", { class: "value" }, number, " ", unit);
  const detail = make("dd", { class: "detail" });
  return {
    element: make("div", kind ? { class: kind } : {}, heading, value, detail),
    value,
    detail,
    show(text, about, suffix = "") {
      number.textContent = text;
      unit.textContent = suffix;
      detail.replaceChildren(...(Array.isArray(about) ? about : [about]));
    },
  };
}
