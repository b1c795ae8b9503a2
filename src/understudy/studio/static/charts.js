/** Charts drawn by hand, at the width that they really have, so that letters keep their size on a phone. */

import { make, makeSvg } from "./elements.js";

/** A drawing that is made anew whenever its width changes. `draw` gets a frame to draw into. */
export class Chart {
  constructor(height, margins, draw) {
    Object.assign(this, { height, margins, draw });
    this.element = make("div", { class: "chart" });
    this.svg = makeSvg("svg", { height });
    this.element.append(this.svg);
    new ResizeObserver(() => this.resize()).observe(this.element);
  }

  resize() {
    const width = this.element.clientWidth;
    if (!width || width === this.width) return;
    this.width = width;
    this.redraw();
  }

  redraw() {
    if (!this.width) return;
    const { width, height, margins } = this;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("width", width);
    this.svg.replaceChildren();
    this.frame = { svg: this.svg, left: margins.left, right: width - margins.right, top: margins.top, bottom: height - margins.bottom };
    this.draw(this.frame);
  }
}

/** From values to places: `x` and `y` of a frame whose axes go from the first to the second value of each pair. */
export function scales(frame, [x0, x1], [y0, y1]) {
  return {
    x: (value) => frame.left + ((value - x0) / (x1 - x0 || 1)) * (frame.right - frame.left),
    y: (value) => frame.bottom - ((value - y0) / (y1 - y0 || 1)) * (frame.bottom - frame.top),
  };
}

/** Round values from 0 to just above `most`. */
export function ticksTo(most, wanted = 5) {
  const rough = most / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

/** Axes with their ticks: pairs of value and label. The title of the upright axis lies on top of it, to be read. */
export function drawAxes({ svg, left, right, top, bottom }, { x, y }, { xTicks, yTicks, xTitle, yTitle }) {
  const decimals = Math.max(...yTicks.map((tick) => (String(tick).split(".")[1] ?? "").length));
  for (const tick of yTicks) {
    svg.append(makeSvg("line", { class: tick === 0 ? "base" : "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      makeSvg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(decimals)));
  }
  xTicks.forEach(([value, label]) => {
    const anchor = x(value) < left + 12 ? "start" : x(value) > right - 12 ? "end" : "middle";
    svg.append(makeSvg("line", { class: "base", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 5 }),
      makeSvg("text", { x: x(value), y: bottom + 19, "text-anchor": anchor }, label));
  });
  svg.append(makeSvg("text", { class: "axis-title", x: 0, y: top - 14 }, yTitle),
    makeSvg("text", { class: "axis-title", x: (left + right) / 2, y: bottom + 38, "text-anchor": "middle" }, xTitle));
}

export function line(points, x, y, attributes) {
  const path = points.map(([a, b], index) => `${index ? "L" : "M"}${x(a).toFixed(2)} ${y(b).toFixed(2)}`).join("");
  return makeSvg("path", { d: path, ...attributes });
}

/** The area between two lines over the same places. */
export function band(places, low, high, x, y, attributes) {
  const up = places.map((place, index) => `${index ? "L" : "M"}${x(place).toFixed(2)} ${y(high[index]).toFixed(2)}`);
  const down = [...places.keys()].reverse().map((index) => `L${x(places[index]).toFixed(2)} ${y(low[index]).toFixed(2)}`);
  return makeSvg("path", { d: `${up.join("")}${down.join("")}Z`, ...attributes });
}

/** A table behind a fold, for those who cannot or would rather not read a drawing. */
export function foldedTable(title, columns, rows) {
  const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col" }, column)));
  const body = rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((value) => make("td", {}, value))));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  return make("details", {}, make("summary", {}, title),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table));
}
