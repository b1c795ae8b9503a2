/** A schedule to scale, in SVG: one lane for each model, so that no colour is needed to tell them apart. */

import { make, makeSvg } from "./elements.js";

const GAP = 0.12; // of a lane's height

/** Models in the order of the server: class m0 is the costliest. */
let order = [];

export function setModels(models) {
  order = models.map((model) => model.key);
}

export function modelClass(key) {
  return `m${Math.max(0, order.indexOf(key)) % 6}`;
}

/** Lanes to draw: all models there are, the costliest on top. */
export function laneKeys() {
  return order;
}

/** Draw `segments`, pairs of key and count. Marks for passes that were made can be added by `markMade`. */
export function drawLanes(segments) {
  const total = segments.reduce((sum, [, count]) => sum + count, 0);
  const svg = makeSvg("svg", { viewBox: `0 0 ${total} ${order.length}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [lane, key] of order.entries()) {
    let start = 0;
    let path = "";
    for (const [owner, count] of segments) {
      if (owner === key) path += `M${start} ${lane + GAP}h${count}v${1 - 2 * GAP}h${-count}z`;
      start += count;
    }
    svg.append(makeSvg("path", { class: `lane ${modelClass(key)}`, d: path }));
  }
  for (const key of order) svg.append(makeSvg("path", { class: `made ${modelClass(key)}`, "data-key": key, d: "" }));
  return svg;
}

export function markMade(svg, made) {
  for (const path of svg.querySelectorAll(".made")) {
    const lane = order.indexOf(path.dataset.key);
    const steps = [...(made[path.dataset.key] ?? [])].sort((one, other) => one - other);
    path.setAttribute("d", runsOf(steps).map(([start, count]) =>
      `M${start} ${lane + GAP}h${count}v${1 - 2 * GAP}h${-count}z`).join(""));
  }
}

/** Neighbouring steps as one stretch, so that no hair-lines stand between them. */
function runsOf(steps) {
  const runs = [];
  for (const step of steps) {
    const last = runs.at(-1);
    if (last && last[0] + last[1] === step) last[1] += 1;
    else runs.push([step, 1]);
  }
  return runs;
}

export function describeSegments(segments) {
  const shown = segments.slice(0, 12).map(([key, count]) => `${count} by ${key}`);
  const more = segments.length > shown.length ? `, and ${segments.length - shown.length} more segments` : "";
  return `In order: ${shown.join(", ")}${more}`;
}

/** Put a schedule into a bar that is there already, or empty it. */
export function showBar(bar, segments) {
  bar.replaceChildren(...(segments ? [drawLanes(segments)] : []));
  if (segments) bar.setAttribute("aria-label", describeSegments(segments));
  else bar.setAttribute("aria-label", "No schedule yet");
}

export function smallBar(segments) {
  const bar = make("div", { class: "bar small", role: "img" });
  showBar(bar, segments);
  return bar;
}
