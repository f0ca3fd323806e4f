/** The answer of BiGain Best of N: the best seed, what was saved, and what became of each seed. */

import { app } from "../../scripts/app.js";
import { addPanel, after, headline, html, show, table } from "./panel.js";
import { percent } from "./race.js";

const KIND = "BiGainBestOfN";
const HEIGHT = 180;
const WIDTH = 400;
const COLUMNS = {
  seed: ({ seed, dropped }) => html("span", { class: dropped ? "" : "best" }, seed),
  score: ({ score }) => score,
  dropped: ({ dropped }) => dropped || "kept",
  evaluations: ({ evaluations }) => evaluations,
};
const STYLES = `
  .best { font-weight: bold; }
  tbody tr:nth-child(odd) { background: var(--comfy-menu-bg); }
`;

/**
 * @typedef {object} Row best first
 * @property {string} seed
 * @property {string} score empty where the seed was not finished
 * @property {string} dropped when; empty where it is kept
 * @property {number} evaluations of the network
 */

app.registerExtension({
  name: "bigain.best",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "best_of_n", HEIGHT, "Seeds, best first", STYLES, WIDTH);
    show(panel, html("div", { class: "note" }, "After a run the best seed is named here, and what became of the others."));
    after(node, "onExecuted", (output) => {
      const [found] = output?.bigain_best ?? [];
      if (!found) return;
      const saved = `${percent(found.saved)} of the evaluations saved`;
      show(panel, headline(`best: seed ${found.rows[0].seed}`, saved, "good"), table("Seeds", COLUMNS, found.rows));
    });
  },
});
