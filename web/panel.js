/**
 * What the panels of our nodes share: elements, and a widget that is never saved. It is a DOM
 * widget, the one kind that both renderers show alike; a shadow tree keeps styles apart.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SVG = "http://www.w3.org/2000/svg";
const CANVAS_MARGIN = 10; // the classic renderer takes it off the height at both ends

const STYLES = `
  :host { display: flex; box-sizing: border-box; overflow: hidden; }
  * { box-sizing: border-box; }
  .panel {
    display: flex; flex-direction: column; flex: 1; min-width: 0; gap: 4px; padding: 6px;
    font: 12px sans-serif; color: var(--input-text); background: var(--comfy-input-bg);
    border: 1px solid var(--border-color); border-radius: 4px;
  }
  .row { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
  .note { color: var(--descrip-text); }
  .shown { user-select: text; cursor: auto; }
  .headline { display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: baseline; font-size: 16px; }
  .badge { padding: 1px 8px; border-radius: 8px; font-size: 11px; color: #fff; background: #5f6670; }
  .good { background: #2a7d50; }
  .poor { background: #a86400; }
  table { width: 100%; border-collapse: collapse; margin-top: 6px; }
  thead th { color: var(--descrip-text); }
  th, td { padding: 1px 6px 1px 0; font-weight: normal; text-align: left; vertical-align: top; }
  .scroll { flex: 1; contain: size; overflow: auto; } /* a node does not grow with what is in it */
  button, select {
    font: inherit; color: inherit; background: var(--comfy-menu-bg); padding: 2px 6px;
    border: 1px solid var(--border-color); border-radius: 4px;
  }
  progress { width: 100%; }
  .folders { display: flex; flex-wrap: wrap; gap: 4px; align-items: baseline; margin-top: 4px; }
  :focus-visible { outline: 2px solid var(--p-primary-color, #4a90d9); }
`;

/**
 * An element with attributes; functions among them listen to the event of that name. Texts among
 * the children are shown as they are, never read as markup.
 * @param {string} tag
 * @param {Record<string, string | number | ((event: Event) => void)>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/**
 * The same for SVG.
 * @param {string} tag
 * @param {Record<string, string | number | ((event: Event) => void)>} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/**
 * What was found in a few words, and beside it a badge that is "good", "poor" or "none".
 * @param {string} words
 * @param {string} badge
 * @param {string} verdict
 * @returns {HTMLElement}
 */
export function headline(words, badge, verdict) {
  const label = html("span", { class: `badge ${verdict}` }, badge);
  return html("div", { class: "headline", role: "status" }, html("strong", {}, words), label);
}

/**
 * A table with a column for each name, whose function gives what a row has there.
 * @param {string} caption for screen readers
 * @param {Record<string, (row: object) => Node | string | number>} columns
 * @param {object[]} rows
 * @returns {HTMLElement}
 */
export function table(caption, columns, rows) {
  const names = Object.keys(columns).map((name) => html("th", { scope: "col" }, name));
  const cells = (row) => Object.values(columns).map((cell) => html("td", {}, cell(row)));
  return html(
    "table",
    { "aria-label": caption },
    html("thead", {}, html("tr", {}, ...names)),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...cells(row)))),
  );
}

/**
 * Shows parts in a panel, to be read, selected and, where they are long, scrolled.
 * @param {HTMLElement} panel
 * @param {...(Node | string)} parts
 */
export function show(panel, ...parts) {
  const stay = (event) => event.stopPropagation(); // or the node would be dragged
  panel.replaceChildren(html("div", { class: "scroll shown", tabindex: 0, pointerdown: stay }, ...parts));
}

/**
 * Adds an empty panel below the widgets of a node. It is no part of the saved workflow.
 * @param {object} node of the host's graph
 * @param {string} name
 * @param {number} height in pixels, at least
 * @param {string} label for screen readers
 * @param {string} styles of this panel alone: it lies in a shadow tree
 * @param {number} [width] of a fresh node in pixels, at least
 * @returns {HTMLElement} what to fill
 */
export function addPanel(node, name, height, label, styles, width = 0) {
  const host = html("div", { style: `min-height: ${height}px`, "data-bigain": name });
  const panel = html("div", { class: "panel", role: "group", "aria-label": label });
  host.attachShadow({ mode: "open" }).append(html("style", {}, STYLES + styles), panel);
  const widget = node.addDOMWidget(name, `bigain.${name}`, host, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height + 2 * CANVAS_MARGIN,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false; // the option alone leaves an empty place among the saved values
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], node.computeSize()[1])]);
  return panel;
}

/**
 * Does something after a function of an object, which keeps working as it did.
 * @param {object} object
 * @param {string} name
 * @param {(...given: unknown[]) => void} then
 */
export function after(object, name, then) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    then(...given);
    return result;
  };
}

/**
 * The node that an id of the server means; "3:7" is node 7 in the subgraph that is node 3.
 * @param {string | number} id
 * @returns {object | null}
 */
export function nodeOf(id) {
  let graph = app.graph.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/**
 * A small image of a file of the server.
 * @param {{filename: string, subfolder: string, type: string}} file
 * @param {string} label
 * @returns {HTMLElement}
 */
export function thumbnail({ filename, subfolder, type }, label) {
  const query = new URLSearchParams({ filename, subfolder, type, preview: "webp;80" });
  return html("img", { src: api.apiURL(`/view?${query}`), alt: label, title: label, loading: "lazy" });
}
