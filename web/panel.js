/**
 * What the panels of our nodes share: elements, and a widget that is never saved. It is a DOM
 * widget, the one kind that both renderers show alike; a shadow tree keeps styles apart.
 */

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
  .scroll { flex: 1; contain: size; overflow: auto; } /* a node does not grow with what is in it */
  button, select {
    font: inherit; color: inherit; background: var(--comfy-menu-bg); padding: 2px 6px;
    border: 1px solid var(--border-color); border-radius: 4px;
  }
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
 * Adds an empty panel below the widgets of a node. It is no part of the saved workflow.
 * @param {object} node of the host's graph
 * @param {string} name
 * @param {number} height in pixels, at least
 * @param {string} label for screen readers
 * @param {string} styles of this panel alone: it lies in a shadow tree
 * @returns {HTMLElement} what to fill
 */
export function addPanel(node, name, height, label, styles) {
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
