/** Past runs of this browser: open them, keep them as JSON, run them again. */

import { get, Refusal } from "./api.js";
import { button, make, saveFile } from "./elements.js";
import { smallBar } from "./lanes.js";
import { percent, plural, seconds } from "./numbers.js";
import { openTab } from "./tabs.js";

const STATES = { waiting: "waiting", running: "running", done: "finished", cancelled: "stopped", failed: "failed" };

export async function showRuns(panel, setup, sample) {
  panel.dataset.state = "loading";
  const runs = await get("runs");
  const head = [make("h2", {}, "Past runs"),
    make("p", { class: "note" }, "The last 50 runs of this browser. The server keeps them until it is stopped; download what you want to keep.")];
  panel.replaceChildren(...head, runs.length ? list(runs, panel, setup, sample) : nothing());
  panel.dataset.state = "ready";
}

function nothing() {
  const begin = button("Go to Sample", () => openTab("sample", { focus: true }), { class: "primary" });
  return make("div", { class: "empty" }, make("p", {}, "Nothing has been run in this browser yet."), begin);
}

function list(runs, panel, setup, sample) {
  return make("ul", { class: "run-list" }, ...pairs(runs).map((group) => (group.length === 2
    ? pair(group, setup, sample) : row(group[0], setup, sample))));
}

/** Put the two runs of a comparison together, the first schedule first; those that stand alone stay so. */
function pairs(runs) {
  const groups = [];
  for (const run of runs) {
    const other = run.pair && groups.find(([first]) => first.pair === run.pair);
    if (other) other.unshift(run);
    else groups.push([run]);
  }
  return groups;
}

function pair(runs, setup, sample) {
  const both = button("Open both", () => openRuns(runs, sample), { "aria-label": `Open both: ${runs.map((run) => run.schedule).join(" and ")}` });
  return make("li", { class: "pair" }, make("p", { class: "note" }, "Side by side, under one seed"), make("div", { class: "row-actions" }, both),
    make("ul", {}, ...runs.map((run) => row(run, setup, sample))));
}

function row(run, setup, sample) {
  const { settings } = run;
  const title = settings.text.trim() || run.excerpt?.trim() || "Written freely";
  const when = new Date(run.created);
  const facts = [
    STATES[run.state],
    when.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" }),
    `seed ${settings.seed}`,
    settings.num_samples > 1 ? plural(settings.num_samples, "sample") : null,
    settings.temperature === 1 ? null : `temperature ${settings.temperature}`,
    run.seconds === null ? null : `${seconds(run.seconds)} s`,
    run.state === "done" ? `${percent(run.schedule_saved)} of FLOPs saved by the schedule alone` : null,
  ];
  const message = run.message ? make("p", { class: "message error" }, run.message) : null;
  const failed = make("p", { class: "message error", role: "alert" });
  const actions = make("div", { class: "row-actions" },
    button("Open", () => openRuns([run], sample), { "aria-label": `Open: ${title}` }),
    button("JSON", () => download(run, failed), { "aria-label": `Download as JSON: ${title}` }),
    button("Run again", () => sample.use({ ...settings, compares: false }, { starts: true }), { "aria-label": `Run again: ${title}` }));
  return make("li", { "data-run": run.id, "data-state": run.state },
    make("div", { class: "what" }, make("h3", { title }, title),
      make("p", { class: "note" }, facts.filter(Boolean).join(" \u00b7 ")), message, failed),
    make("div", { class: "plan" }, make("code", { title: run.schedule }, run.schedule), smallBar(run.segments)),
    actions);
}

async function openRuns(runs, sample) {
  openTab("sample", { focus: true });
  await sample.open(runs.map((run) => run.id));
}

async function download(run, line) {
  try {
    saveFile(`understudy-${run.id}.json`, await get(`runs/${run.id}/download`));
    line.textContent = "";
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    line.textContent = error.message;
  }
}
