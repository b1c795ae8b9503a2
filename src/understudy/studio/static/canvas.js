/** The text while it fills: one element for each token, which changes once, from a quiet block to its characters. */

import { make } from "./elements.js";
import { modelClass } from "./lanes.js";

let special = new Set();

export function setSpecial(ids) {
  special = new Set(ids);
}

const HALF = "\ufffd"; // what a token of half a character decodes to

/** Control characters are shown as a dot, as in the report; line ends and tabs stay. */
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, (char) => (char === "\n" || char === "\t" ? char : "\u00b7"));
}

export class Canvas {
  constructor() {
    this.element = make("div", { class: "canvas", tabindex: "0", role: "group", "aria-label": "Text" });
    new ResizeObserver(([entry]) => this.resized(entry.contentRect.width)).observe(this.element);
    this.rows = [];
  }

  /** Lay out `template` ({tokens, pieces}, null where a token is wanted) for so many samples. */
  lay(template, numSamples) {
    this.release();
    this.rows = Array.from({ length: numSamples }, () =>
      template.pieces.map((piece, place) => givenToken(piece, template.tokens[place])));
    this.element.replaceChildren(...this.rows.map((row, sample) => {
      const text = make("p", { "data-sample": sample }, ...row.map((token) => token.element));
      return make("div", {}, numSamples > 1 ? make("h3", {}, `Sample ${sample + 1}`) : null, text);
    }));
  }

  /** Keep the box as high as it is, so that nothing below it moves while words come in. */
  hold() {
    this.width = this.element.clientWidth;
    this.element.style.height = `${this.element.offsetHeight}px`;
  }

  release() {
    this.width = null;
    this.element.style.height = "";
  }

  resized(width) {
    // Half a scroll bar of change is the box's own doing; a window that was resized changes more.
    if (this.width && Math.abs(this.element.clientWidth - this.width) > 24 && width) this.release();
  }

  reveal({ key, sample, positions, tokens, texts }, isFresh) {
    positions.forEach((position, index) => {
      const token = this.rows[sample][position];
      Object.assign(token, { id: tokens[index], key });
      token.element.className = "";
      token.element.dataset.key = key;
      token.element.title = `written by ${key}`;
      write(token, texts[index], isFresh);
    });
  }

  /** Put the exact characters in: some tokens hold half a character each, which only the whole decodes. */
  settle(rows) {
    rows.forEach((pieces, sample) => pieces.forEach((piece, place) => {
      const token = this.rows[sample][place];
      if (token.text !== piece) write(token, piece);
    }));
  }

  /** Mark where two canvases differ; gives how many tokens do, and how many can be compared so far. */
  static compare(one, other) {
    let differing = 0;
    let known = 0;
    one.rows.forEach((row, sample) => row.forEach((token, place) => {
      const rival = other.rows[sample]?.[place];
      if (!rival || token.isGiven || token.id === null || rival.id === null) return;
      const isOther = token.id !== rival.id;
      known += 1;
      differing += isOther;
      for (const { element } of [token, rival]) element.classList.toggle("differs", isOther);
    }));
    return { differing, known };
  }
}

function givenToken(piece, id) {
  const isGiven = piece !== null;
  const token = { element: make("span", isGiven ? {} : { class: "mask" }), isGiven, id: isGiven ? id : null, key: null, text: "" };
  if (isGiven) write(token, piece);
  return token;
}

/**
 * Put characters into a token. Space before a word stays outside of the tint, so that no scrap of it hangs at the end of a
 * line; a line end is shown as a sign and breaks no line, so that a text keeps its height while it fills.
 */
function write(token, text, isFresh = false) {
  const { element, key, id, isGiven } = token;
  token.text = text;
  const isSpecial = special.has(id);
  const shown = isSpecial ? "" : visible(text.replaceAll(HALF, ""));
  const [, space, rest] = /^([ \t]*)(.*)$/s.exec(shown);
  const kind = [key && `by ${modelClass(key)}`, isFresh && "fresh"].filter(Boolean).join(" ");
  const parts = rest.split(/(\n)/).filter(Boolean).map((part) =>
    make("span", { class: `${kind}${part === "\n" ? " line-end" : ""}` }, part));
  if (isSpecial && !isGiven) parts.push(make("span", { class: `${kind} special`, title: `a special token, written by ${key}` }));
  if (text.includes(HALF) && !rest) parts.push(make("span", { class: `${kind} part` }));
  element.replaceChildren(space, ...parts);
}
