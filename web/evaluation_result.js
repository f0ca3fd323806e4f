/** What BiGain Evaluate found: how far it is, then the result, where it is, and doubtful images. */

import { registerFolderPanel } from "./folder_panel.js";
import { headline, html, show, table, thumbnail } from "./panel.js";
import { percent } from "./race.js";

const SURE = 0.9; // a smaller confidence is marked
const COLUMNS = {
  image: (row) => thumbnail({ ...row, type: "input" }, row.file),
  file: ({ file }) => file,
  tag: ({ best }) => best,
  sure: ({ confidence }) => html("span", { class: confidence < SURE ? "doubt" : "" }, percent(confidence)),
};
const TAGGED = { ...COLUMNS, fits: ({ fits }) => (fits === null ? "" : percent(fits)) };
const LABELLED = { ...COLUMNS, label: ({ labels }) => labels.join("; ") };

function showResult(panel, { headline: words, file, complete, rows, unsure, images, text }) {
  const badge = unsure ? `${unsure} not sure` : "all sure";
  const parts = [headline(`${words} -> output/${file}`, badge, unsure ? "poor" : "good")];
  if (!complete) parts.push(html("div", { class: "note" }, "Other shards have images without a result."));
  parts.push(...text.split("\n").map((line) => html("div", { class: "note" }, line)));
  if (rows.length) {
    const columns = rows.some(({ labels }) => labels.length) ? LABELLED : TAGGED;
    parts.push(table("Images, least sure first", columns, rows));
  }
  if (images > rows.length) parts.push(html("div", { class: "note" }, `${images - rows.length} more are in the file.`));
  show(panel, ...parts);
}

registerFolderPanel({
  kind: "BiGainEvaluate",
  event: "bigain.evaluation",
  name: "evaluation_result",
  label: "Result",
  note: "After a run the result is shown here, and where its file is.",
  output: "bigain_evaluation",
  showResult,
});
