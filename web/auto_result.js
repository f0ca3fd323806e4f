/** What the last run came to, in BiGain (Auto) itself. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, headline, html, nodeOf, show } from "./panel.js";

const KIND = "BiGainAuto";
const HEIGHT = 64;
const WIDTH = 320;

/** @type {WeakMap<object, HTMLElement>} */
const panels = new WeakMap();

app.registerExtension({
  name: "bigain.auto",
  setup() {
    api.addEventListener("bigain.auto", ({ detail: { node, headline: words, badge, verdict, note } }) => {
      const panel = panels.get(nodeOf(node));
      if (panel) show(panel, headline(words, badge, verdict), html("div", { class: "note" }, note));
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const panel = addPanel(node, "auto_result", HEIGHT, "Last run", "", WIDTH);
    panels.set(node, panel);
    show(panel, html("div", { class: "note" }, "After a run this says what BiGain did."));
  },
});
