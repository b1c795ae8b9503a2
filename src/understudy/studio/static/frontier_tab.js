/** Cost against path KL: planned points of every cost, and the rules with a name; each can be taken to the Sample tab. */

import { get, post, Refusal } from "./api.js";
import { Chart, drawAxes, foldedTable, line, scales, ticksTo } from "./charts.js";
import { button, isTouched, make, makeSvg } from "./elements.js";
import { showBar } from "./lanes.js";
import { percent } from "./numbers.js";

const MARGINS = { left: 46, right: 22, top: 34, bottom: 46 };
const SHARES = [["0.125", "an eighth"], ["0.25", "a quarter"], ["0.5", "half"]];
const NAMES = { plan: "planned", sandwich: "sandwich", first: "light first", last: "light last", middle: "light middle", interleaved: "interleaved" };
const LINE = 18; // pixels that a label is high
const LETTER = 6.6; // pixels that a letter of it is wide
const TOGETHER = 5; // pixels between marks that are seen as one
const ANGLES = [180, 0, 202.5, 337.5, 157.5, 22.5, 225, 315, 135, 45, 247.5, 292.5, 112.5, 67.5, 270, 90].map((degrees) => (degrees / 180) * Math.PI);
const AWAY = [12, 22, 34, 48, 62, 78, 96, 116]; // pixels from a mark to its label

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
  const use = (point) => sample.use({ schedule: inPercent(point.schedule, found.steps), steps: found.steps });
  const side = new Selected(found, use);
  const drawing = frontierChart(points, side, use);
  const caption = make("figcaption", {}, make("h2", {}, "Cost against path KL"), make("p", { class: "note" },
    `For ${found.steps} steps. Circles: the best schedule for each cost, planned; the ring marks the one for the share of light steps chosen here. Squares: the rules with a name. Lower is closer to ${setup.reference} alone, further right is cheaper. ${isTouched()
      ? "Tap a point to see its schedule below." : "Click on a point, or press Enter on it, to use its schedule."}`));
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
    frame.svg.append(...labels(points, scale, frame), ...marks);
    marks.forEach((element, index) => listen(element, index));
  });
  const focus = (index) => {
    focused = (index + points.length) % points.length;
    const marks = chart.svg.querySelectorAll(".point");
    marks.forEach((element, place) => element.setAttribute("tabindex", place === focused ? "0" : "-1"));
    marks[focused].focus();
  };
  const listen = (element, index) => {
    element.addEventListener("click", () => (isTouched() ? side.show(points[index]) : use(points[index])));
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
    : makeSvg("circle", { class: "shape", cx, cy, r: point.kind === "plan" ? 9.5 : 4 });
  return makeSvg("g", { class: `point ${point.kind}`, role: "button", tabindex: isFocusable ? "0" : "-1", "data-schedule": point.schedule,
    "aria-label": `${point.title}: ${percent(point.saved)} saved, path KL ${point.path_kl.toFixed(1)} nats. Use ${shortened(point.schedule)}` },
  makeSvg("circle", { class: "target", cx, cy, r: 9 }), makeSvg("circle", { class: "ring", cx, cy, r: 13 }), shape);
}

/**
 * Names beside their marks; marks that lie on one another share one label. Each label takes the place nearest to its mark
 * where it covers neither a mark nor another label, and stays within the frame.
 */
function labels(points, { x, y }, frame) {
  const marks = points.map((point) => [x(point.saved), y(point.path_kl)]);
  const groups = [];
  for (const point of points.filter(({ kind }) => kind !== "planned")) {
    const [cx, cy] = [x(point.saved), y(point.path_kl)];
    const same = groups.find((group) => Math.hypot(group.cx - cx, group.cy - cy) < TOGETHER);
    if (same) same.names.push(point.title);
    else groups.push({ names: [point.title], cx, cy });
  }
  groups.sort((one, other) => other.names.length - one.names.length || one.cy - other.cy); // the longest has the least choice
  const taken = marks.map(([cx, cy]) => ({ left: cx - 7, right: cx + 7, top: cy - 7, bottom: cy + 7 }));
  return groups.flatMap(({ names, cx, cy }) => {
    const words = names.join(" = ");
    const width = words.length * LETTER;
    const rivals = groups.filter((group) => group.cx !== cx || group.cy !== cy);
    const price = (box) => cost(box, taken, frame) + 60 * crossed(cx, cy, box, rivals);
    const place = placesAround(cx, cy, width).map((box) => [price(box), box]).reduce((best, other) => (other[0] < best[0] ? other : best))[1];
    taken.push(place);
    return drawLabel(words, cx, cy, place);
  });
}

/** Boxes for a label of some width around a mark, the nearest first. */
function placesAround(cx, cy, width) {
  return AWAY.flatMap((away) => ANGLES.map((angle) => {
    const [dx, dy] = [Math.cos(angle) * away, Math.sin(angle) * away];
    const left = Math.abs(dx) < 4 ? cx - width / 2 : dx > 0 ? cx + dx : cx + dx - width;
    return { left, right: left + width, top: cy + dy - LINE / 2, bottom: cy + dy + LINE / 2, away, side: Math.abs(dx) < 4 ? 0 : Math.sign(dx) };
  }));
}

/** What speaks against a place: whatever it covers, then what lies outside of the frame, then how far away it is. */
function cost(box, taken, frame) {
  const outside = Math.max(0, frame.left + 2 - box.left) + Math.max(0, box.right - frame.right - 20) + Math.max(0, frame.top - box.top) + Math.max(0, box.bottom - frame.bottom);
  const covered = taken.filter((other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom)
    .reduce((sum, other) => sum + (other.away ? 4 : 1), 0); // a word under a word can be read less than a mark under one
  return 1000 * (outside > 0) + 100 * covered + box.away;
}

/** How many other marks the line to a label runs over. */
function crossed(cx, cy, { left, right, top, bottom, side }, rivals) {
  const [x, y] = [side < 0 ? right : side > 0 ? left : (left + right) / 2, (top + bottom) / 2];
  const long = (x - cx) ** 2 + (y - cy) ** 2;
  return rivals.filter((rival) => {
    const part = Math.min(1, Math.max(0, ((rival.cx - cx) * (x - cx) + (rival.cy - cy) * (y - cy)) / long));
    return part > 0 && Math.hypot(cx + part * (x - cx) - rival.cx, cy + part * (y - cy) - rival.cy) < 6;
  }).length;
}

function drawLabel(words, cx, cy, { left, right, top, bottom, away, side }) {
  const middle = (top + bottom) / 2;
  const [x, anchor] = side < 0 ? [right, "end"] : side > 0 ? [left, "start"] : [(left + right) / 2, "middle"];
  const leader = away > 12 ? [makeSvg("path", { class: "leader", d: `M${cx} ${cy}L${side < 0 ? x + 2 : side > 0 ? x - 2 : x} ${middle}` })] : [];
  return [...leader, makeSvg("text", { class: "name", x, y: middle + 4, "text-anchor": anchor }, words)];
}

/** A schedule in counts as one in percent, which holds for other numbers of steps too, where that is exact and short. */
function inPercent(schedule, steps) {
  const shares = [...schedule.matchAll(/([A-Za-z])(\d+)/g)].map(([, key, count]) => [key, Number((100 * count / steps).toFixed(4)), Number(count)]);
  const isExact = shares.every(([, share, count]) => Math.round(share * 1e4) * steps === count * 1e6);
  return isExact ? shares.map(([key, share]) => `${key}${share}%`).join(",") : schedule;
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
