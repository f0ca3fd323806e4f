/** The report in BiGain Report as a table: layers, tokens before and after, what was skipped. */

import { app } from "../../scripts/app.js";
import { addPanel, after, html } from "./panel.js";

const KIND = "BiGainReport";
const HEIGHT = 190;
const COLUMNS = {
  layer: ({ layer }) => layer,
  where: ({ stage, level }) => `${stage}, level ${level}`,
  method: ({ method }) => method,
  tokens: ({ tokens, text_tokens: text }) => (text ? `${tokens} + ${text} text` : tokens),
  queries: ({ tokens, queries }) => shortened(queries, tokens),
  keys: ({ tokens, keys }) => shortened(keys, tokens),
  calls: ({ compressed, calls }) => `${compressed} of ${calls}`,
};
const STYLES = `
  table { width: 100%; border-collapse: collapse; margin-top: 6px; }
  caption, th { color: var(--descrip-text); text-align: left; font-weight: normal; }
  th, td { padding: 1px 6px 1px 0; vertical-align: top; }
  tbody tr:nth-child(odd) { background: var(--comfy-menu-bg); }
`;

/** @typedef {{summary: string, layers?: object[], skipped?: object[]}} Report */

function shortened(after, before) {
  return `${after} (${Math.round((100 * after) / before)} %)`;
}

/**
 * @param {HTMLElement} panel
 * @param {Report} report
 */
function show(panel, { summary, layers = [], skipped = [] }) {
  const parts = [html("div", { role: "status" }, summary)];
  if (layers.length) parts.push(table("Compressed", COLUMNS, layers));
  if (skipped.length) {
    const columns = {
      skipped: ({ calls, layers: count }) => (calls ? `${calls} calls` : `${count} layers`),
      reason: ({ reason }) => reason,
    };
    parts.push(table("Skipped", columns, skipped));
  }
  panel.replaceChildren(html("div", { class: "scroll", tabindex: 0 }, ...parts));
}

function table(caption, columns, rows) {
  const names = Object.keys(columns).map((name) => html("th", { scope: "col" }, name));
  const cells = (row) => Object.values(columns).map((cell) => html("td", {}, String(cell(row))));
  return html(
    "table",
    { "aria-label": caption },
    html("thead", {}, html("tr", {}, ...names)),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...cells(row)))),
  );
}

app.registerExtension({
  name: "bigain.report",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "report_view", HEIGHT, "Report", STYLES);
    show(panel, { summary: "After a run this says what BiGain did." });
    after(node, "onExecuted", (output) => {
      if (output?.bigain_report) show(panel, output.bigain_report[0]);
    });
  },
});
