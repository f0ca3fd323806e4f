/** The race of prompts in BiGain Diffusion Classifier: live while it runs, and how it ended. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, after, html } from "./panel.js";
import { barLengths, headline } from "./race.js";

const KIND = "BiGainDiffusionClassifier";
const HEIGHT = 190;
const STYLES = `
  table { width: 100%; border-collapse: collapse; table-layout: fixed; }
  th { width: 40%; padding: 1px 6px 1px 0; font-weight: normal; text-align: left; overflow: hidden;
    white-space: nowrap; text-overflow: ellipsis; }
  td { padding: 1px 0; }
  td:last-child { width: 72px; text-align: right; font-variant-numeric: tabular-nums; }
  .bar { height: 10px; min-width: 2px; background: var(--p-primary-color, #4a90d9);
    border-radius: 2px; transition: width 0.25s; }
  .best .bar { background: #2a8b57; }
  .dropped { color: var(--descrip-text); opacity: 0.6; }
  .dropped .bar { background: var(--descrip-text); }
  @media (prefers-reduced-motion: reduce) { .bar { transition: none; } }
`;

class RacePanel {
  constructor(node) {
    this.panel = addPanel(node, "race", HEIGHT, "Race of the prompts", STYLES);
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

  /** @param {import("./race.js").Snapshot[]} snapshots of all images */
  end(snapshots) {
    this.running = false;
    this.show(snapshots);
  }

  stop() {
    if (!this.running) return;
    this.running = false;
    this.panel.append(html("div", { class: "note", role: "status" }, "stopped"));
  }

  show(snapshots) {
    const races = snapshots.flatMap((snapshot) => [
      html("div", { class: "note" }, headline(snapshot)),
      table(snapshot),
    ]);
    this.panel.replaceChildren(html("div", { class: "scroll", tabindex: 0 }, ...races));
  }
}

function table({ rows, prompts }) {
  const lengths = barLengths(rows);
  const lines = rows.map((row, place) => line(row, place, lengths[place]));
  if (prompts > rows.length) {
    const rest = `${prompts - rows.length} more`;
    lines.push(html("tr", { class: "dropped" }, html("th", {}, rest)));
  }
  return html("table", {}, ...lines);
}

function line({ label, behind, dropped }, place, length) {
  const state = dropped ? "dropped" : place === 0 ? "best" : "";
  const bar = html("div", { class: "bar", style: `width: ${(100 * length).toFixed(1)}%` });
  const words = behind === null ? "ruled out" : `+${behind.toPrecision(3)}`;
  const behindBest = html("td", { title: "error above that of the best" }, place ? words : "best");
  return html("tr", { class: state }, html("th", { scope: "row", title: label }, label), html("td", {}, bar), behindBest);
}

/** The node that an id of the server means; "3:7" is node 7 in the subgraph that is node 3. */
function nodeOf(id) {
  let graph = app.graph.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
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
      if (output?.bigain_race) panel.end(output.bigain_race);
    });
  },
});
