/** Cost against path KL: planned points of every cost, and the rules with a name; each can be taken to the Sample tab. */

import { get, post, Refusal } from "./api.js";
import { Chart, drawAxes, foldedTable, line, scales, ticksTo } from "./charts.js";
import { button, make, makeSvg } from "./elements.js";
import { showBar } from "./lanes.js";
import { percent } from "./numbers.js";

const MARGINS = { left: 46, right: 22, top: 34, bottom: 46 };
const SHARES = [["0.125", "an eighth"], ["0.25", "a quarter"], ["0.5", "half"]];
const NAMES = { plan: "planned", sandwich: "sandwich", first: "light first", last: "light last", middle: "light middle", interleaved: "interleaved" };
const LINE = 16; // pixels between labels that would overlap
const WORDS = 112; // pixels that a label takes, with the line to it

let shown = null; // what is on show: steps and share

export async function showFrontier(panel, setup, sample) {
  if (!setup.has_frontier) {
    panel.replaceChildren(make("h2", {}, "Cost against path KL"), noImportance());
    panel.dataset.state = "ready";
    return;
  }
  const steps = sample.settings.judgeNumbers() ? setup.defaults.steps : sample.settings.read().steps;
  const share = panel.querySelector("select")?.value ?? "0.25";
  if (shown === `${steps} ${share}`) return;
  panel.dataset.state = "loading";
  try {
    const found = await get(`frontier?steps=${steps}&light_share=${share}`);
    panel.replaceChildren(...contents(found, share, panel, setup, sample));
    shown = `${steps} ${share}`;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    panel.replaceChildren(make("h2", {}, "Cost against path KL"), make("p", { class: "message error" }, error.message));
    shown = null;
  }
  panel.dataset.state = "ready";
}

function noImportance() {
  return make("div", { class: "empty" }, make("p", {}, "Nothing is known of these models yet. Write a file with ",
    make("code", {}, "understudy analyze"), " and serve with ", make("code", {}, "--importance FILE"), "."));
}

function contents(found, share, panel, setup, sample) {
  const select = make("select", { id: "light-share" }, ...SHARES.map(([value, label]) => make("option", { value }, label)));
  select.value = share;
  select.addEventListener("change", () => showFrontier(panel, setup, sample));
  const points = [
    ...found.planned.map((point) => ({ ...point, kind: "planned", title: "planned" })),
    ...found.named.map((rule) => ({ ...rule, kind: rule.name === "plan" ? "plan" : "named", title: NAMES[rule.name] ?? rule.name })),
  ];
  const use = (point) => sample.use({ schedule: point.schedule, steps: found.steps });
  const side = new Selected(found, use);
  const drawing = frontierChart(points, side, use);
  const caption = make("figcaption", {}, make("h2", {}, "Cost against path KL"), make("p", { class: "note" },
    `For ${found.steps} steps. Circles: the best schedule for each cost, planned. Squares: the rules with a name. Lower is closer to ${setup.reference} alone, further right is cheaper. Click on a point, or press Enter on it, to use its schedule.`));
  const controls = make("div", { class: "frontier-controls" },
    make("label", {}, "Light steps of the named rules", select));
  const rows = points.map((point) => [point.title, make("code", { title: point.schedule }, point.schedule), percent(point.saved),
    point.path_kl.toFixed(2), button("Use", () => use(point), { class: "quiet", "aria-label": `Use ${point.title}, ${percent(point.saved)} saved` })]);
  const table = foldedTable("Values as a table", ["which", "schedule", "saved, blocks only", "path KL, nats", ""], rows);
  const figure = make("figure", { class: "figure" }, caption, controls, drawing, table);
  return [make("div", { class: "frontier" }, figure, side.element)];
}

function frontierChart(points, side, use) {
  const planned = points.filter((point) => point.kind === "planned");
  const yTicks = ticksTo(Math.max(...points.map((point) => point.path_kl)));
  const widest = Math.max(...points.map((point) => point.saved), 0.01);
  let focused = points.findIndex((point) => point.kind === "plan");
  const chart = new Chart(400, MARGINS, (frame) => {
    const scale = scales(frame, [0, widest], [0, yTicks.at(-1)]);
    const xTicks = ticksTo(widest * 100, 6).filter((tick) => tick <= widest * 100 + 1e-9).map((tick) => [tick / 100, `${tick}\u202f%`]);
    drawAxes(frame, scale, { xTicks, yTicks, xTitle: "FLOPs saved (nominal, blocks only)", yTitle: "path KL, nats per sequence" });
    frame.svg.append(line(planned.map((point) => [point.saved, point.path_kl]), scale.x, scale.y, { class: "planned-line" }));
    const marks = points.map((point, index) => mark(point, scale, index === focused));
    frame.svg.append(...marks, ...labels(points, scale, frame));
    marks.forEach((element, index) => listen(element, index));
  });
  const focus = (index) => {
    focused = (index + points.length) % points.length;
    const marks = chart.svg.querySelectorAll(".point");
    marks.forEach((element, place) => element.setAttribute("tabindex", place === focused ? "0" : "-1"));
    marks[focused].focus();
  };
  const listen = (element, index) => {
    element.addEventListener("click", () => use(points[index]));
    element.addEventListener("pointerenter", () => side.show(points[index]));
    element.addEventListener("focus", () => side.show(points[index]));
    element.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: index + 1, ArrowUp: index + 1, ArrowLeft: index - 1, ArrowDown: index - 1, Home: 0, End: points.length - 1 };
      if (event.key === "Enter" || event.key === " ") use(points[index]);
      else if (event.key in moves) focus(moves[event.key]);
      else return;
      event.preventDefault();
    });
  };
  chart.svg.setAttribute("role", "group");
  chart.svg.setAttribute("aria-label", "Schedules by cost and path KL; arrow keys move between them, Enter uses one");
  side.show(points[focused]);
  return chart.element;
}

function mark(point, { x, y }, isFocusable) {
  const [cx, cy] = [x(point.saved), y(point.path_kl)];
  const shape = point.kind === "named"
    ? makeSvg("rect", { class: "shape", x: cx - 5, y: cy - 5, width: 10, height: 10, rx: 1 })
    : makeSvg("circle", { class: "shape", cx, cy, r: point.kind === "plan" ? 6 : 4 });
  return makeSvg("g", { class: `point ${point.kind}`, role: "button", tabindex: isFocusable ? "0" : "-1", "data-schedule": point.schedule,
    "aria-label": `${point.title}: ${percent(point.saved)} saved, path KL ${point.path_kl.toFixed(1)} nats. Use ${shortened(point.schedule)}` },
  makeSvg("circle", { class: "target", cx, cy, r: 9 }), makeSvg("circle", { class: "ring", cx, cy, r: 10 }), shape);
}

/**
 * Names beside their marks, pushed apart where they would overlap. The frontier is convex and no rule lies below it, so
 * there is room to the left of a mark. Where the width does not allow that, names stand above the frontier, and those of
 * marks that lie on it below.
 */
function labels(points, { x, y }, frame) {
  const planned = points.filter((point) => point.kind === "planned");
  const named = points.filter((point) => point.kind !== "planned").map((point) => ({
    names: [point.title], cx: x(point.saved), cy: y(point.path_kl), at: y(point.path_kl) - 8 }));
  named.sort((one, other) => other.cy - one.cy);
  const isTight = named.some(({ cx }) => cx - frame.left < WORDS);
  if (!isTight) return drawLabels(pushedApart(named, frame.bottom - 6), -1);
  const isOnFrontier = ({ cx, cy }) => planned.some((point) => Math.hypot(x(point.saved) - cx, y(point.path_kl) - cy) < 5);
  const [lowest, ...others] = named;
  const joined = others.filter((entry) => isOnFrontier(lowest) && Math.abs(entry.cy - lowest.cy) < 5);
  const above = named.filter((entry) => entry !== lowest && !joined.includes(entry));
  const crossed = planned.map((point) => [x(point.saved), y(point.path_kl)]).filter(([px]) => px > lowest.cx && px < lowest.cx + WORDS);
  const first = { ...lowest, names: [...lowest.names, ...joined.flatMap((entry) => entry.names)], at: Math.min(lowest.cy + 10, frame.bottom - 8) };
  return drawLabels([first, ...pushedApart(above, Math.min(frame.bottom, ...crossed.map(([, py]) => py)))], 1);
}

/** Move labels up, the lowest first, until each is a line above the one below it. */
function pushedApart(entries, floor) {
  let below = floor;
  return entries.map((entry) => {
    below = Math.min(entry.at, below - LINE);
    return { ...entry, at: below };
  });
}

function drawLabels(entries, side) {
  return entries.flatMap(({ names, cx, cy, at }) => [
    makeSvg("path", { class: "leader", d: `M${cx + side * 7} ${cy}L${cx + side * 22} ${at}` }),
    makeSvg("text", { class: "name", x: cx + side * 26, y: at + 4, "text-anchor": side < 0 ? "end" : "start" }, names.join(", "))]);
}

function shortened(schedule) {
  return schedule.length > 60 ? `${schedule.slice(0, 59)}\u2026` : schedule;
}

/** The point under the pointer or in focus, in full. */
class Selected {
  constructor(found, use) {
    this.found = found;
    this.title = make("h2");
    this.code = make("code", { tabindex: "0" });
    this.bar = make("div", { class: "bar", role: "img" });
    this.shares = make("div", { class: "shares" });
    this.button = button("Use this schedule", () => use(this.point), { class: "primary" });
    this.element = make("aside", { class: "selected", "aria-label": "Schedule pointed at" },
      this.title, this.code, this.bar, this.shares, this.button,
      make("p", { class: "note" }, `Path KL is predicted for texts of ${found.length} tokens, from ${found.analysed_steps} analysed steps.`));
  }

  show(point) {
    if (this.point === point) return;
    this.point = point;
    this.title.textContent = point.title[0].toUpperCase() + point.title.slice(1);
    this.code.textContent = point.schedule;
    showBar(this.bar, [...point.schedule.matchAll(/([A-Za-z])(\d+)/g)].map(([, key, count]) => [key, Number(count)]));
    this.showShares([[point.path_kl.toFixed(1), "nats of path KL per sequence"], [percent(point.saved), "saved, nominal, blocks only"]]);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.complete(point), 120);
  }

  /** The other conventions, which the server works out for the length that was analysed. */
  async complete(point) {
    const draft = { text: "", steps: this.found.steps, new_tokens: this.found.length, schedules: [point.schedule] };
    const { schedules: [{ expected, path_kl: pathKl }] } = await post("drafts", draft);
    if (this.point !== point || !expected) return;
    const { flops } = expected;
    this.showShares([
      [pathKl ? `${pathKl.mean.toFixed(1)} \u00b1 ${(1.96 * pathKl.error).toFixed(1)}` : point.path_kl.toFixed(1), "nats of path KL per sequence"],
      [percent(flops.nominal_blocks_saved), "saved, nominal, blocks only"],
      [percent(flops.nominal_saved), "nominal, with the output head"],
      [percent(flops.executed_saved), "executed, against a full pass at every step"],
      [percent(flops.schedule_saved), "by the schedule alone"],
    ]);
  }

  showShares(rows) {
    this.shares.replaceChildren(...rows.flatMap(([value, words]) => [make("b", {}, value), make("span", {}, words)]));
  }
}
