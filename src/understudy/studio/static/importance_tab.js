/** Where the models differ over time: on held-out text, and on the costliest model's own way. */

import { band, Chart, drawAxes, foldedTable, line, scales, ticksTo } from "./charts.js";
import { isTouched, make, makeSvg } from "./elements.js";
import { laneKeys, modelClass, showBar } from "./lanes.js";
import { figures } from "./numbers.js";

const MARGINS = { left: 52, right: 26, top: 34, bottom: 46 };

export function showImportance(panel, setup, sample) {
  if (!panel.firstChild) panel.replaceChildren(...contents(setup.importance));
  const segments = sample.settings.found?.schedules[0]?.segments;
  for (const bar of panel.querySelectorAll(".bar")) showBar(bar, segments ?? null);
  panel.dataset.state = "ready";
}

function contents(importance) {
  const head = make("h2", {}, "Where the models differ over time");
  if (!importance?.held_out && !importance?.path) {
    const advice = make("p", {}, "Nothing is known of these models yet. Write a file with ", make("code", {}, "understudy analyze"),
      " and serve with ", make("code", {}, "--importance FILE"), ".");
    return [head, make("div", { class: "empty" }, advice)];
  }
  const { reference, held_out: heldOut, path, command } = importance;
  const charts = [heldOut && heldOutFigure(heldOut, reference), path && pathFigure(path, reference)].filter(Boolean);
  const note = make("p", { class: "note" },
    "Both read from left to right as a text is written, from all masked to clean. Shaded: 95\u202f% intervals. The bar below each curve is the schedule of the Sample tab, on the same axis.");
  const source = command ? make("p", { class: "note source" }, "Made by ", make("code", {}, command)) : null;
  return [head, note, make("div", { class: "chart-grid" }, ...charts), source].filter(Boolean);
}

function heldOutFigure({ times, kl, num_blocks: blocks, length }, reference) {
  const order = times.map((_, index) => index).sort((one, other) => times[other] - times[one]);
  const pick = (values) => order.map((index) => values[index]);
  return curveFigure({
    title: "KL per masked token",
    about: `How far each model\u2019s next tokens are from those of ${reference}, on ${blocks} held-out texts of ${length} tokens, noised to time t.`,
    places: pick(times).map((time) => 1 - time),
    labels: pick(times).map((time) => `t = ${time.toFixed(3)}`),
    series: Object.entries(kl).map(([key, curve]) => ({ key, mean: pick(curve.mean), low: pick(curve.low), high: pick(curve.high) })),
    unit: "nats per masked token",
    column: "time",
  });
}

function pathFigure({ bins, num_steps: steps, divergence, length, num_samples: samples }, reference) {
  const centres = bins.slice(1).map((end, index) => (bins[index] + end) / 2 / steps);
  return curveFigure({
    title: "Path KL of each step, D\u2096",
    about: `What it costs to give a step to another model, on ${reference}\u2019s own way: ${samples} samples of ${length} tokens in ${steps} steps. A schedule\u2019s path KL is the sum over its light steps.`,
    places: centres,
    labels: bins.slice(1).map((end, index) => (end - bins[index] > 1 ? `steps ${bins[index] + 1} to ${end}` : `step ${end}`)),
    series: Object.entries(divergence).map(([key, curve]) => ({ key, ...curve })),
    unit: "nats per sequence and step",
    column: "steps",
  });
}

function curveFigure({ title, about, places, labels, series, unit, column }) {
  const readout = make("p", { class: "readout" }, isTouched() ? "Touch the curve to read it." : "Point at the curve, or focus it and use the arrow keys.");
  const most = Math.max(...series.flatMap((curve) => curve.high));
  const yTicks = ticksTo(most);
  let active = null;
  const chart = new Chart(300, MARGINS, (frame) => {
    const scale = scales(frame, [0, 1], [0, yTicks.at(-1)]);
    chart.scale = scale;
    const xTicks = [[0, "t = 1"], [0.25, "0.75"], [0.5, "0.5"], [0.75, "0.25"], [1, "t = 0"]];
    drawAxes(frame, scale, { xTicks, yTicks, xTitle: "all masked \u2192 clean", yTitle: unit });
    for (const curve of series) drawCurve(frame, scale, places, curve);
    if (active !== null) drawCursor(frame, scale, places[active], series.map((curve) => [curve.key, curve.mean[active]]));
  });
  const surface = chart.element;
  const say = (index) => `${labels[index]}: ${series.map(({ key, mean, low, high }) =>
    `${key} ${figures(mean[index])} (${figures(low[index])} to ${figures(high[index])})`).join(", ")} ${unit}`;
  const choose = (index) => {
    active = Math.min(Math.max(index, 0), places.length - 1);
    readout.textContent = say(active);
    surface.setAttribute("aria-valuenow", active);
    surface.setAttribute("aria-valuetext", say(active));
    chart.redraw();
  };
  listen(surface, places, () => chart, () => active, choose);
  for (const [name, value] of Object.entries({ role: "slider", tabindex: 0, "aria-label": `${title} over time`, "aria-valuemin": 0,
    "aria-valuemax": places.length - 1, "aria-valuenow": 0, "aria-valuetext": say(0) })) surface.setAttribute(name, value);
  const rows = places.map((_, index) => [labels[index], ...series.flatMap(({ mean, low, high }) =>
    [figures(mean[index]), `${figures(low[index])} to ${figures(high[index])}`])]);
  const columns = [column, ...series.flatMap(({ key }) => [`${key}, ${unit}`, "95\u202f% interval"])];
  const names = make("div", { class: "lane-names", "aria-hidden": "true" }, ...laneKeys().map((key) => make("span", {}, key)));
  const bar = make("div", { class: "below" }, names, make("div", { class: "bar", role: "img" }));
  return make("figure", { class: "figure" }, make("figcaption", {}, make("h2", {}, title), make("p", { class: "note" }, about)),
    surface, bar, readout, foldedTable("Values as a table", columns, rows));
}

function drawCurve({ svg }, { x, y }, places, { key, mean, low, high }) {
  svg.append(band(places, low, high, x, y, { class: `band ${modelClass(key)}` }),
    line(places.map((place, index) => [place, mean[index]]), x, y, { class: `curve ${modelClass(key)}` }),
    makeSvg("text", { class: "end-label", x: x(places.at(-1)) + 7, y: y(mean.at(-1)) + 4 }, key));
}

function drawCursor({ svg, top, bottom }, { x, y }, place, values) {
  svg.append(makeSvg("line", { class: "cursor", x1: x(place), x2: x(place), y1: top, y2: bottom }));
  for (const [key, value] of values) svg.append(makeSvg("circle", { class: `dot ${modelClass(key)}`, cx: x(place), cy: y(value), r: 5 }));
}

/** Pointer and arrow keys choose a place on the curve. */
function listen(surface, places, chart, active, choose) {
  const point = (event) => {
    const at = event.clientX - surface.getBoundingClientRect().left;
    const distances = places.map((place) => Math.abs(chart().scale.x(place) - at));
    const nearest = distances.indexOf(Math.min(...distances));
    if (nearest !== active()) choose(nearest);
  };
  for (const name of ["pointerdown", "pointermove"]) surface.addEventListener(name, point);
  surface.addEventListener("focus", () => active() === null && choose(0));
  surface.addEventListener("keydown", (event) => {
    const now = active() ?? 0;
    const moves = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1, Home: 0, End: places.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(moves[event.key]);
  });
}
