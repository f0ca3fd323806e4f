/** The race of prompts in BiGain Diffusion Classifier: live while it runs, and how it ended. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, after, headline, html, nodeOf, show } from "./panel.js";
import { barLengths, outcome, percent, progress } from "./race.js";

const KIND = "BiGainDiffusionClassifier";
const HEIGHT = 240;
const WIDTH = 400;
const STYLES = `
  table { table-layout: fixed; }
  th { width: 40%; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
  td:last-child { width: 72px; text-align: right; font-variant-numeric: tabular-nums; }
  .warning { color: var(--input-text); border-left: 3px solid #a86400; padding-left: 6px; margin-top: 4px; }
  .bar { height: 10px; min-width: 2px; background: var(--p-primary-color, #4a90d9);
    border-radius: 2px; transition: width 0.25s; }
  .best .bar { background: #2a7d50; }
  .unsure .best .bar { background: #a86400; }
  .dropped { color: var(--descrip-text); opacity: 0.6; }
  .dropped .bar { background: var(--descrip-text); }
  @media (prefers-reduced-motion: reduce) { .bar { transition: none; } }
`;

class RacePanel {
  constructor(node) {
    this.panel = addPanel(node, "race", HEIGHT, "Race of the prompts", STYLES, WIDTH);
    this.running = false;
    this.say("While it runs, the prompts race here: the longer a bar, the closer to the best.");
  }

  say(text) {
    this.panel.replaceChildren(html("div", { class: "note", role: "status" }, text));
  }

  /** @param {import("./race.js").Snapshot} snapshot */
  run(snapshot) {
    this.running = true;
    this.show([snapshot]);
  }

  /**
   * @param {import("./race.js").Snapshot[]} snapshots of all images
   * @param {string[]} notes on the result
   */
  end(snapshots, notes) {
    this.running = false;
    this.show(snapshots, notes);
  }

  stop() {
    if (!this.running) return;
    this.running = false;
    this.panel.append(html("div", { class: "note", role: "status" }, "stopped"));
  }

  show(snapshots, notes = []) {
    const warnings = notes.map((note) => html("div", { class: "warning" }, note));
    const [first, ...others] = snapshots.map(race);
    show(this.panel, first, ...warnings, ...others);
  }
}

function race(snapshot) {
  const counted = html("div", { class: "note" }, progress(snapshot));
  if (snapshot.saved === undefined) return html("div", {}, counted, bars(snapshot));
  const [words, badge, verdict] = outcome(snapshot);
  const unsure = verdict === "good" ? "" : "unsure";
  return html("div", { class: unsure }, headline(words, badge, verdict), bars(snapshot), counted);
}

function bars({ rows, prompts }) {
  const lengths = barLengths(rows);
  const lines = rows.map((row, place) => line(row, place, lengths[place]));
  if (prompts > rows.length) {
    const rest = `${prompts - rows.length} more`;
    lines.push(html("tr", { class: "dropped" }, html("th", {}, rest)));
  }
  return html("table", {}, ...lines);
}

function line({ label, behind, dropped, chance }, place, length) {
  const state = dropped ? "dropped" : place === 0 ? "best" : "";
  const bar = html("div", { class: "bar", style: `width: ${(100 * length).toFixed(1)}%` });
  const title = behind === null ? "" : `error above that of the best: ${behind.toPrecision(3)}`;
  const words = chance === undefined ? "" : dropped || chance === null ? "ruled out" : percent(chance);
  const name = html("th", { scope: "row", title: label }, label);
  return html("tr", { class: state, title }, name, html("td", {}, bar), html("td", {}, words));
}

/** @type {WeakMap<object, RacePanel>} */
const panels = new WeakMap();

function stopAll(graph) {
  for (const node of graph.nodes) {
    panels.get(node)?.stop();
    if (node.subgraph) stopAll(node.subgraph);
  }
}

app.registerExtension({
  name: "bigain.race",
  setup() {
    api.addEventListener("bigain.race", ({ detail }) => panels.get(nodeOf(detail.node))?.run(detail));
    for (const end of ["execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () => stopAll(app.graph.rootGraph ?? app.graph));
    }
  },
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = new RacePanel(node);
    panels.set(node, panel);
    after(node, "onExecuted", (output) => {
      if (output?.bigain_race) panel.end(output.bigain_race, output.bigain_notes);
    });
  },
});
