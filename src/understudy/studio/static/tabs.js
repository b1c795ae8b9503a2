/** Tabs by the ARIA pattern: arrow keys move, the panel follows at once. */

import { byId } from "./elements.js";

const NAMES = ["sample", "importance", "frontier", "runs"];
const shown = new Map();

/** Call `action` whenever a tab is opened. */
export function onOpen(name, action) {
  shown.set(name, action);
}

export function openTab(name, { focus = false } = {}) {
  for (const other of NAMES) {
    const tab = byId(`tab-${other}`);
    const isOpen = other === name;
    tab.setAttribute("aria-selected", String(isOpen));
    tab.tabIndex = isOpen ? 0 : -1;
    byId(`panel-${other}`).hidden = !isOpen;
  }
  document.body.dataset.tab = name;
  if (focus) byId(`tab-${name}`).focus();
  shown.get(name)?.();
}

export function startTabs(onChange) {
  for (const [place, name] of NAMES.entries()) {
    const tab = byId(`tab-${name}`);
    const go = (to, focus) => {
      openTab(to, { focus });
      onChange(to);
    };
    tab.addEventListener("click", () => go(name, false));
    tab.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: NAMES.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      go(NAMES.at(moves[event.key] % NAMES.length), true);
    });
  }
}
