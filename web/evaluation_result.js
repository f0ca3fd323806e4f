/** What BiGain Evaluate found: how far it is, then the result, where it is, and doubtful images. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, after, headline, html, nodeOf, show, table, thumbnail } from "./panel.js";
import { duration, percent } from "./race.js";

const KIND = "BiGainEvaluate";
const HEIGHT = 260;
const WIDTH = 440;
const SURE = 0.9; // a smaller confidence is marked
const STYLES = `
  img { width: 40px; height: 40px; object-fit: cover; display: block; }
  td { vertical-align: middle; overflow-wrap: anywhere; }
  .doubt { color: #e0a030; }
  progress { width: 100%; }
`;
const COLUMNS = {
  image: (row) => thumbnail({ ...row, type: "input" }, row.file),
  file: ({ file }) => file,
  tag: ({ best }) => best,
  sure: ({ confidence }) => html("span", { class: confidence < SURE ? "doubt" : "" }, percent(confidence)),
};
const LABELLED = { ...COLUMNS, label: ({ labels }) => labels.join("; ") };

/** @type {WeakMap<object, HTMLElement>} */
const panels = new WeakMap();

/** @param {{done: number, left: number, seconds: number}} told */
function showProgress(panel, { done, left, seconds }) {
  const words = `${done} of ${done + left} images, about ${duration((seconds / done) * left)} to go`;
  show(panel, html("div", { role: "status" }, words), html("progress", { max: done + left, value: done }));
}

function showResult(panel, { headline: words, file, complete, rows, unsure, images, text }) {
  const badge = unsure ? `${unsure} not sure` : "all sure";
  const parts = [headline(`${words} -> output/${file}`, badge, unsure ? "poor" : "good")];
  if (!complete) parts.push(html("div", { class: "note" }, "Other shards have images without a result."));
  parts.push(...text.split("\n").map((line) => html("div", { class: "note" }, line)));
  if (rows.length) {
    const columns = rows.some(({ labels }) => labels.length) ? LABELLED : COLUMNS;
    parts.push(table("Images, least sure first", columns, rows));
  }
  if (images > rows.length) parts.push(html("div", { class: "note" }, `${images - rows.length} more are in the file.`));
  show(panel, ...parts);
}

app.registerExtension({
  name: "bigain.evaluation",
  setup() {
    api.addEventListener("bigain.evaluation", ({ detail }) => {
      const panel = panels.get(nodeOf(detail.node));
      if (panel) showProgress(panel, detail);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "evaluation_result", HEIGHT, "Result", STYLES, WIDTH);
    panels.set(node, panel);
    show(panel, html("div", { class: "note" }, "After a run the result is shown here, and where its file is."));
    after(node, "onExecuted", (output) => {
      if (output?.bigain_evaluation) showResult(panel, output.bigain_evaluation[0]);
    });
  },
});
