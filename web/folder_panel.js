/** What the panels of nodes that work through a folder share: which folders there are, and progress. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, after, html, nodeOf, show } from "./panel.js";
import { duration } from "./race.js";

const HEIGHT = 260;
const WIDTH = 440;
const STYLES = `
  img { width: 40px; height: 40px; object-fit: cover; display: block; }
  td { vertical-align: middle; overflow-wrap: anywhere; }
  .doubt { color: #e0a030; }
`;

/**
 * Shows in a panel how many images are done and how long the rest may take.
 * @param {HTMLElement} panel
 * @param {{done: number, left: number, seconds: number}} told
 */
function showProgress(panel, { done, left, seconds }) {
  const words = `${done} of ${done + left} images, about ${duration((seconds / done) * left)} to go`;
  show(panel, html("div", { role: "status" }, words), html("progress", { max: done + left, value: done }));
}

/**
 * Buttons that write the name of a folder in ComfyUI's input folder into the widget `folder`.
 * @param {object} node
 * @returns {HTMLElement[]}
 */
export function folderButtons(node) {
  const folders = node.constructor.nodeData?.input?.required?.folder?.[1]?.bigain_folders ?? [];
  const set = (name) => () => {
    node.widgets.find((widget) => widget.name === "folder").value = name;
    app.graph.setDirtyCanvas(true, true);
  };
  const buttons = folders.map((name) => html("button", { type: "button", click: set(name) }, name));
  return buttons.length ? [html("div", { class: "folders" }, "Folders in input: ", ...buttons)] : [];
}

/**
 * Registers the panel of a kind of node: folders to choose from, then progress, then the result.
 * @param {object} given
 * @param {string} given.kind of node
 * @param {string} given.event of the server, with the progress of a node
 * @param {string} given.name of the panel
 * @param {string} given.label for screen readers
 * @param {string} given.note before the first run
 * @param {string} given.output of the node, whose first entry `showResult` gets
 * @param {(panel: HTMLElement, found: object) => void} given.showResult
 */
export function registerFolderPanel({ kind, event, name, label, note, output, showResult }) {
  /** @type {WeakMap<object, HTMLElement>} */
  const panels = new WeakMap();
  app.registerExtension({
    name: event,
    setup() {
      api.addEventListener(event, ({ detail }) => {
        const panel = panels.get(nodeOf(detail.node));
        if (panel) showProgress(panel, detail);
      });
    },
    nodeCreated(node) {
      if (node.comfyClass !== kind) return;
      const panel = addPanel(node, name, HEIGHT, label, STYLES, WIDTH);
      panels.set(node, panel);
      show(panel, html("div", { class: "note" }, note), ...folderButtons(node));
      after(node, "onExecuted", (found) => {
        if (found?.[output]) showResult(panel, found[output][0]);
      });
    },
  });
}
