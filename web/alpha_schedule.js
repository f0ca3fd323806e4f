/** An editor of the curve in BiGain Alpha Schedule. The text above it remains what is saved. */

import { app } from "../../scripts/app.js";
import {
  addPoint,
  alphaAt,
  alphaRange,
  emptiestTimestep,
  formatCurve,
  LAST_TIMESTEP,
  movePoint,
  parseCurve,
  plotScale,
  PRESETS,
  presetCurve,
  removePoint,
} from "./alpha_curve.js";
import { addPanel, after, html, svg } from "./panel.js";

const HEIGHT = 220;
const MARGIN = { left: 30, right: 10, top: 8, bottom: 18 };
const STEPS = {
  ArrowLeft: { timestep: 1, alpha: 0 },
  ArrowRight: { timestep: -1, alpha: 0 },
  ArrowUp: { timestep: 0, alpha: 0.01 },
  ArrowDown: { timestep: 0, alpha: -0.01 },
};
const LARGER = 10; // with the shift key
const SUBGRAPH_INPUT = -10; // the host's number for where the inputs of a subgraph come in
const STYLES = `
  svg { flex: 1; min-height: 0; width: 100%; touch-action: none; user-select: none; }
  text { font: 10px sans-serif; fill: var(--descrip-text); }
  .beyond { fill: var(--p-primary-color, #4a90d9); opacity: 0.14; }
  .special { stroke: var(--descrip-text); stroke-dasharray: 3 3; }
  .curve { fill: none; stroke: var(--input-text); stroke-width: 2; }
  circle { fill: var(--p-primary-color, #4a90d9); stroke: var(--input-text); cursor: grab; }
  .linked { opacity: 0.5; pointer-events: none; }
`;

/** All nodes of a graph and of the subgraphs in it. */
function nodesOf(graph) {
  return graph.nodes.flatMap((node) => [node, ...(node.subgraph ? nodesOf(node.subgraph) : [])]);
}

/**
 * The widget that an input takes its value from. That of a promoted one belongs to the node that
 * stands for the subgraph; null where there are several of those, or another node gives the value.
 */
function sourceOf(node, name) {
  const input = node.inputs?.find((input) => input.name === name);
  const link = node.graph?.getLink(input?.link); // a new node has no graph
  if (!link) return node.widgets.find((widget) => widget.name === name) ?? null;
  if (Number(link.origin_id) !== SUBGRAPH_INPUT) return null;
  const around = nodesOf(node.graph.rootGraph).filter(({ subgraph }) => subgraph === node.graph);
  const [host, ...others] = new Set(around);
  return host && !others.length ? sourceOf(host, host.inputs[link.origin_slot].name) : null;
}

class CurveEditor {
  constructor(node) {
    this.node = node;
    this.dragged = null; // number of the point under the pointer, and the scale it began with
    this.presets = html("select", { "aria-label": "Preset", change: () => this.choosePreset() });
    this.presets.append(
      html("option", { value: "" }, "Table 8 ..."),
      ...PRESETS.map(([start, end], row) => html("option", { value: row }, `${start} to ${end}`)),
    );
    this.adding = html(
      "button",
      { type: "button", click: () => this.add(emptiestTimestep(this.points)) },
      "Add point",
    );
    this.note = html("span", { class: "note", role: "status" });
    this.plot = svg("svg", {
      role: "group",
      "aria-label": "Alpha over timesteps",
      dblclick: (event) => this.add(this.under(event, this.scale()).timestep),
      pointermove: (event) => this.drag(event),
      pointerup: () => (this.dragged = null),
      pointercancel: () => (this.dragged = null),
    });
    this.panel = addPanel(node, "alpha_editor", HEIGHT, "Editor of the alpha curve", STYLES);
    this.panel.append(
      html("div", { class: "row" }, this.presets, this.adding, this.note),
      this.plot,
    );
    this.panel.addEventListener("keydown", (event) => this.key(event));
    this.size = { width: 300, height: 160 };
    new ResizeObserver(([{ contentRect }]) => {
      this.size = contentRect;
      this.draw();
    }).observe(this.plot);
    after(sourceOf(node, "curve"), "callback", () => this.draw());
    after(node, "onConfigure", () => this.draw());
    after(node, "onConnectionsChange", () => this.draw());
  }

  get source() {
    return sourceOf(this.node, "curve");
  }

  get points() {
    return parseCurve(this.source?.value ?? "");
  }

  set(points) {
    this.source.value = formatCurve(points);
    this.draw(); // the widget of a subgraph does not call back
    this.node.graph?.setDirtyCanvas(true, true);
  }

  scale() {
    const { width, height } = this.size;
    const frame = {
      left: MARGIN.left,
      right: width - MARGIN.right,
      top: MARGIN.top,
      bottom: height - MARGIN.bottom,
    };
    return plotScale(frame, alphaRange(this.points ?? []));
  }

  /** What lies under the pointer; the canvas may be zoomed. */
  under(event, scale) {
    const box = this.plot.getBoundingClientRect();
    const zoom = box.width / this.size.width;
    return scale.point((event.clientX - box.left) / zoom, (event.clientY - box.top) / zoom);
  }

  choosePreset() {
    if (this.presets.value && this.source) {
      this.set(presetCurve(PRESETS[Number(this.presets.value)]));
    }
    this.presets.value = "";
  }

  add(timestep) {
    if (this.points) this.set(addPoint(this.points, timestep)); // else the text is no curve
  }

  grab(event, index) {
    if (event.button !== 0) return;
    event.stopPropagation();
    this.plot.setPointerCapture(event.pointerId);
    this.dragged = { index, scale: this.scale() };
    this.focus(index);
  }

  drag(event) {
    const { index, scale } = this.dragged ?? {};
    if (!this.points?.[index]) return; // no point is held, or the text has changed since
    this.set(movePoint(this.points, index, this.under(event, scale)));
    this.focus(index);
  }

  key(event) {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation(); // the host has shortcuts
    const index = Number(event.target.dataset?.index ?? -1);
    if (index < 0) return;
    const step = STEPS[event.key];
    if (step) {
      const factor = event.shiftKey ? LARGER : 1;
      const { timestep, alpha } = this.points[index];
      const place = { timestep: timestep + factor * step.timestep, alpha: alpha + factor * step.alpha };
      this.set(movePoint(this.points, index, place));
      this.focus(index);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.set(removePoint(this.points, index));
      this.focus(Math.max(0, index - 1));
    } else {
      return;
    }
    event.preventDefault();
  }

  focus(index) {
    this.plot.querySelector(`[data-index="${index}"]`)?.focus({ preventScroll: true });
  }

  draw() {
    const { points, source } = this;
    this.panel.classList.toggle("linked", !source);
    this.adding.disabled = !points;
    if (!source) this.note.textContent = "The curve comes from another node.";
    else if (!points) this.note.textContent = "This text is no curve; a preset replaces it.";
    else this.note.textContent = "";
    this.plot.replaceChildren(...(points ? this.drawn(points) : []));
  }

  drawn(points) {
    const { width, height } = this.size;
    const scale = this.dragged?.scale ?? this.scale();
    const right = width - MARGIN.right;
    const one = scale.y(1);
    const level = (alpha, name) => [
      svg("line", {
        class: "special", x1: MARGIN.left, x2: right, y1: scale.y(alpha), y2: scale.y(alpha),
      }),
      svg("text", { x: 2, y: scale.y(alpha) + 3 }, String(alpha)),
      svg("text", { x: right, y: scale.y(alpha) - 3, "text-anchor": "end" }, name),
    ];
    const stops = [LAST_TIMESTEP, ...points.map((point) => point.timestep), 0];
    const line = stops.map((stop) => `${scale.x(stop)},${scale.y(alphaAt(points, stop))}`);
    return [
      svg("rect", {
        class: "beyond", x: MARGIN.left, y: MARGIN.top, width: Math.max(0, right - MARGIN.left),
        height: Math.max(0, one - MARGIN.top),
      }),
      svg("text", { x: MARGIN.left + 4, y: MARGIN.top + 10 }, "above 1: extrapolation"),
      svg("text", { x: MARGIN.left + 4, y: scale.y(0) - 3 }, "below 1: interpolation"),
      ...level(1, "nearest"),
      ...level(0, "average"),
      svg("text", { x: MARGIN.left, y: height - 4 }, "999: noise"),
      svg("text", { x: right, y: height - 4, "text-anchor": "end" }, "0: image"),
      svg("polyline", { class: "curve", points: line.join(" ") }),
      ...points.map((point, index) => this.handle(point, index, scale)),
    ];
  }

  handle({ timestep, alpha }, index, scale) {
    const place = `timestep ${timestep}, alpha ${alpha}`;
    const help = "drag, arrow keys; Delete removes; double-click adds";
    return svg(
      "circle",
      {
        cx: scale.x(timestep), cy: scale.y(alpha), r: 6, tabindex: 0, role: "slider",
        "data-index": index, "aria-label": `Point ${index + 1}`, "aria-valuenow": alpha,
        "aria-valuetext": place,
        pointerdown: (event) => this.grab(event, index),
      },
      svg("title", {}, `${place} (${help})`),
    );
  }
}

app.registerExtension({
  name: "bigain.alpha_schedule",
  nodeCreated(node) {
    if (node.comfyClass === "BiGainAlphaSchedule") new CurveEditor(node);
  },
});
