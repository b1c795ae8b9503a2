/** The studio: what is said once about the models, the four tabs, and the address that finds a run again. */

import { get } from "./api.js";
import { setSpecial } from "./canvas.js";
import { byId, make } from "./elements.js";
import { showFrontier } from "./frontier_tab.js";
import { showImportance } from "./importance_tab.js";
import { modelClass, setModels } from "./lanes.js";
import { scaled } from "./numbers.js";
import { showRuns } from "./runs_tab.js";
import { SampleTab } from "./sample_tab.js";
import { onOpen, openTab, startTabs } from "./tabs.js";

const place = new URLSearchParams(location.hash.slice(1)); // tab=frontier&run=ID,ID

function remember(name, value) {
  if (value) place.set(name, value);
  else place.delete(name);
  const hash = place.toString().replaceAll("%2C", ",");
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

function showModels(models) {
  byId("models").replaceChildren(...models.map(({ key, blocks, source, description, pass_flops: flops }) => {
    const [value, prefix] = scaled(flops);
    const words = blocks ? `${blocks} blocks` : description || source;
    return make("li", { title: `${source || key}: a full pass costs ${value} ${prefix}FLOPs` },
      make("b", { class: `by chip ${modelClass(key)}` }, key), ` ${words}`, make("span", { class: "cost" }, `, ${value} ${prefix}FLOPs a pass`));
  }));
}

async function start() {
  const setup = await get("setup");
  setModels(setup.models);
  setSpecial(setup.special);
  showModels(setup.models);
  const sample = new SampleTab(setup, (ids) => remember("run", ids.join(",")));
  onOpen("importance", () => showImportance(byId("panel-importance"), setup, sample));
  onOpen("frontier", () => showFrontier(byId("panel-frontier"), setup, sample));
  onOpen("runs", () => showRuns(byId("panel-runs"), setup, sample));
  startTabs((name) => remember("tab", name === "sample" ? "" : name));
  const ids = (place.get("run") ?? "").split(",").filter(Boolean).slice(0, 2);
  const tab = place.get("tab");
  openTab(["importance", "frontier", "runs"].includes(tab) ? tab : "sample");
  if (ids.length) await sample.open(ids);
  document.body.dataset.state = "ready";
}

start();
