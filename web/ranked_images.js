/** The images of BiGain Rank Images, best first, each with its score. */

import { app } from "../../scripts/app.js";
import { addPanel, after, html, show, thumbnail } from "./panel.js";
import { FITS, percent } from "./race.js";

const KIND = "BiGainRankImages";
const HEIGHT = 240;
const WIDTH = 400;
const STYLES = `
  .grid { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 4px; }
  figure { width: 112px; margin: 0; }
  img { width: 112px; height: 112px; object-fit: contain; background: var(--comfy-menu-bg); }
  .best img { outline: 2px solid #2a7d50; }
  .doubt { color: #e0a030; }
  .best strong { color: var(--input-text); }
`;

/**
 * @typedef {object} Row best first
 * @property {number} image its position in the batch
 * @property {number} score
 * @property {number | null} error of the distance to the best
 * @property {number | null} fits the probability that the prompt describes it at all
 */

/** @param {Row & object} row */
function figure({ image, score, error, fits, ...file }, place) {
  const label = `image ${image}`;
  const doubt = place && error !== null ? ` \u00b1 ${error.toPrecision(1)}` : "";
  const fit = fits === null ? [] : [html("div", { class: fits < FITS ? "doubt" : "note" }, `fits: ${percent(fits)}`)];
  return html(
    "figure",
    { class: place ? "" : "best" },
    thumbnail(file, label),
    html("figcaption", {}, html("strong", {}, `${place + 1}. ${label}`), html("div", { class: "note" }, `score ${score.toPrecision(3)}${doubt}`), ...fit),
  );
}

app.registerExtension({
  name: "bigain.ranked",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "ranked_images", HEIGHT, "Images, best first", STYLES, WIDTH);
    show(panel, html("div", { class: "note" }, "After a run the images are shown here, best first."));
    after(node, "onExecuted", (output) => {
      const [found] = output?.bigain_ranked ?? [];
      if (!found) return;
      const rest = found.images - found.rows.length;
      const notes = [found.note, rest > 0 ? `${rest} more are not shown.` : ""].filter(Boolean);
      const grid = html("div", { class: "grid" }, ...found.rows.map(figure));
      show(panel, ...notes.map((note) => html("div", { class: "note" }, note)), grid);
    });
  },
});
