/** The answer of BiGain Compare Models: by how much each model is behind the best, with intervals. */

import { app } from "../../scripts/app.js";
import { folderButtons } from "./folder_panel.js";
import { addPanel, after, headline, html, show } from "./panel.js";

const KIND = "BiGainCompareModels";
const HEIGHT = 180;
const STYLES = `
  table { width: 100%; border-collapse: collapse; table-layout: fixed; }
  th { width: 40%; padding: 1px 6px 1px 0; font-weight: normal; text-align: left; overflow: hidden;
    white-space: nowrap; text-overflow: ellipsis; }
  td { padding: 1px 0; }
  td:last-child { width: 72px; text-align: right; font-variant-numeric: tabular-nums; }
  .track { position: relative; height: 12px; margin: 0 6px; }
  .interval { position: absolute; top: 5px; height: 2px; background: currentColor; }
  .dot { position: absolute; top: 2px; width: 8px; height: 8px; margin-left: -4px;
    border-radius: 4px; background: currentColor; }
  .alive .track { color: var(--p-primary-color, #4a90d9); }
  .best .track { color: #2a8b57; }
  .worse { color: var(--descrip-text); opacity: 0.6; }
`;

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {number} behind error above that of the best
 * @property {[number, number] | null} interval
 * @property {number} images
 * @property {boolean} best
 * @property {boolean} worse
 */

/**
 * @param {HTMLElement} panel
 * @param {Model[]} models
 */
function showModels(panel, models) {
  const ends = models.flatMap(({ behind, interval }) => [behind, ...(interval ?? [])]);
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const place = (value) => (most > least ? (100 * (value - least)) / (most - least) : 0);
  const lines = models.map((model) => line(model, place));
  const best = models.find((model) => model.best);
  const rest = models.filter(({ best, worse }) => !best && !worse).length;
  const badge = rest ? `${rest} more may be as good` : "all others are worse";
  const title = "error above that of the best, with 95 % intervals";
  show(
    panel,
    headline(`best: ${best.name}`, badge, rest ? "none" : "good"),
    html("div", { class: "note" }, title),
    html("table", { "aria-label": "Models" }, ...lines),
  );
}

function line({ name, behind, interval, images, best, worse }, place) {
  const track = html("div", { class: "track" });
  if (interval) {
    const [low, high] = interval.map(place);
    track.append(html("div", { class: "interval", style: `left: ${low}%; width: ${high - low}%` }));
  }
  track.append(html("div", { class: "dot", style: `left: ${place(behind)}%` }));
  const words = best ? "best" : `${behind < 0 ? "" : "+"}${behind.toPrecision(3)}`;
  return html(
    "tr",
    { class: best ? "best" : worse ? "worse" : "alive", title: `${name}: ${images} images` },
    html("th", { scope: "row" }, name),
    html("td", {}, track),
    html("td", {}, words),
  );
}

app.registerExtension({
  name: "bigain.comparison",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "model_comparison", HEIGHT, "Compared models", STYLES);
    const note = "After a run this says by how much each model is behind the best.";
    show(panel, html("div", { class: "note", role: "status" }, note), ...folderButtons(node));
    after(node, "onExecuted", (output) => {
      if (output?.bigain_comparison) showModels(panel, output.bigain_comparison);
    });
  },
});
