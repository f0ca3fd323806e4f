/** The report in BiGain Report: what was gained, then layers, tokens before and after, skipped ones. */

import { app } from "../../scripts/app.js";
import { addPanel, after, headline, html, show, table } from "./panel.js";

const KIND = "BiGainReport";
const HEIGHT = 240;
const WIDTH = 480;
const COLUMNS = {
  layer: ({ layer }) => layer,
  where: ({ stage, level }) => `${stage}, level ${level}`,
  method: ({ method }) => method,
  tokens: ({ tokens, text_tokens: text }) => (text ? `${tokens} + ${text} text` : tokens),
  queries: ({ tokens, queries }) => shortened(queries, tokens),
  keys: ({ tokens, keys }) => shortened(keys, tokens),
  calls: ({ compressed, calls }) => `${compressed} of ${calls}`,
};
const SKIPPED = {
  skipped: ({ calls, layers: count }) => (calls ? `${calls} calls` : `${count} layers`),
  reason: ({ reason }) => reason,
};
const STYLES = `
  .headline + div { margin-top: 4px; }
  tbody tr:nth-child(odd) { background: var(--comfy-menu-bg); }
`;

/**
 * @typedef {object} Report
 * @property {string} summary
 * @property {string} [headline]
 * @property {string} [badge]
 * @property {string} [verdict]
 * @property {object[]} [layers]
 * @property {object[]} [skipped]
 */

function shortened(after, before) {
  return `${after} (${Math.round((100 * after) / before)} %)`;
}

/**
 * @param {HTMLElement} panel
 * @param {Report} report
 */
function showReport(panel, { summary, headline: words, badge, verdict, layers = [], skipped = [] }) {
  const parts = words ? [headline(words, badge, verdict)] : [];
  parts.push(html("div", {}, summary));
  if (layers.length) parts.push(table("Compressed", COLUMNS, layers));
  if (skipped.length) parts.push(table("Skipped", SKIPPED, skipped));
  show(panel, ...parts);
}

app.registerExtension({
  name: "bigain.report",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "report_view", HEIGHT, "Report", STYLES, WIDTH);
    showReport(panel, { summary: "After a run this says what BiGain did." });
    after(node, "onExecuted", (output) => {
      if (output?.bigain_report) showReport(panel, output.bigain_report[0]);
    });
  },
});
