/** What BiGain Tag Folder found: how far it is, then where the captions are, and each image's tags. */

import { registerFolderPanel } from "./folder_panel.js";
import { headline, html, show, table, thumbnail } from "./panel.js";
import { percent } from "./race.js";

const COLUMNS = {
  image: (row) => thumbnail({ ...row, type: "input" }, row.file),
  file: ({ file }) => file,
  tags: ({ tags }) =>
    tags.length
      ? html("div", {}, tags.map(([tag, chance]) => `${tag} (${percent(chance)})`).join(", "))
      : html("span", { class: "doubt" }, "none of these"),
};

function showResult(panel, { folder, images, without, skipped, rows, text }) {
  const words = `${images} images tagged -> output/${folder}`;
  const doubts = [without && `${without} without a tag`, skipped && `${skipped} skipped`].filter(Boolean);
  const parts = [headline(words, doubts.join(", ") || "all tagged", doubts.length ? "poor" : "good")];
  parts.push(...text.split("\n").map((line) => html("div", { class: "note" }, line)));
  if (rows.length) parts.push(table("Images and their tags, those without first", COLUMNS, rows));
  if (images > rows.length) parts.push(html("div", { class: "note" }, `${images - rows.length} more are in the CSV file.`));
  show(panel, ...parts);
}

registerFolderPanel({
  kind: "BiGainTagFolder",
  event: "bigain.tagging",
  name: "tagged_folder",
  label: "Tags",
  note: "After a run every image and its tags are shown here, and where the captions are.",
  output: "bigain_tagged",
  showResult,
});
