/** The geometry of the curve editor. Run by `node --test tests/ui`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  addPoint,
  alphaAt,
  alphaRange,
  emptiestTimestep,
  formatCurve,
  movePoint,
  parseCurve,
  plotScale,
  presetCurve,
  PRESETS,
  removePoint,
} from "../../web/alpha_curve.js";

const line = presetCurve([0.8, 1.2]);
const bent = parseCurve("0: 1.2, 999: 0.8\n400: 1");

test("a text becomes points from noise to image, and back", () => {
  assert.deepEqual(
    bent.map((point) => point.timestep),
    [999, 400, 0],
  );
  assert.equal(formatCurve(bent), "999: 0.8\n400: 1\n0: 1.2");
  assert.deepEqual(parseCurve(formatCurve(bent)), bent);
});

test("between two points alpha is linear, beyond the ends constant", () => {
  assert.equal(alphaAt(line, 999), 0.8);
  assert.equal(alphaAt(line, 0), 1.2);
  assert.ok(Math.abs(alphaAt(line, 499.5) - 1) < 1e-12);
  const inner = parseCurve("700: 0.5, 300: 1");
  assert.equal(alphaAt(inner, 900), 0.5);
  assert.equal(alphaAt(inner, 100), 1);
  assert.equal(alphaAt(inner, 600), 0.625);
  assert.equal(alphaAt(parseCurve("500: 0.9"), 999), 0.9);
});

test("a point stays between its neighbours and within the limits of alpha", () => {
  assert.deepEqual(movePoint(bent, 1, { timestep: 1500, alpha: 7 })[1], { timestep: 998, alpha: 2 });
  assert.deepEqual(movePoint(bent, 1, { timestep: -5, alpha: -7 })[1], { timestep: 1, alpha: -1 });
  assert.deepEqual(movePoint(bent, 0, { timestep: 5, alpha: 0.123 })[0], {
    timestep: 401,
    alpha: 0.12,
  });
  assert.equal(bent[1].timestep, 400, "the curve that was given is left alone");
});

test("a point between two that touch keeps its timestep", () => {
  const tight = parseCurve("500: 1, 499: 1, 498: 1");
  assert.equal(movePoint(tight, 1, { timestep: 900, alpha: 1.1 })[1].timestep, 499);
});

test("a new point lies on the line and nowhere twice", () => {
  assert.deepEqual(addPoint(line, 500)[1], { timestep: 500, alpha: 1 });
  assert.equal(addPoint(line, 999), line);
  assert.equal(addPoint(line, 5000), line);
});

test("a point is added where none is", () => {
  assert.equal(emptiestTimestep(line), 500);
  assert.equal(emptiestTimestep(parseCurve("900: 1")), 450);
  assert.equal(emptiestTimestep(parseCurve("10: 1")), 505);
});

test("the last point stays", () => {
  assert.equal(removePoint(bent, 1).length, 2);
  assert.equal(removePoint([bent[0]], 0).length, 1);
});

test("the plot shows 0, 1 and every point", () => {
  for (const points of [line, parseCurve("999: -3, 0: 5")]) {
    const [low, high] = alphaRange(points);
    const shown = [0, 1, ...points.map((point) => point.alpha)];
    assert.ok(shown.every((alpha) => low < alpha && alpha < high));
  }
});

test("places in the plot and points are each other's inverse, noise on the left", () => {
  const scale = plotScale({ left: 30, right: 330, top: 10, bottom: 110 }, [0, 2]);
  assert.equal(scale.x(999), 30);
  assert.equal(scale.x(0), 330);
  assert.equal(scale.y(0), 110);
  assert.equal(scale.y(2), 10);
  const back = scale.point(scale.x(321), scale.y(1.25));
  assert.ok(Math.abs(back.timestep - 321) < 1e-9 && Math.abs(back.alpha - 1.25) < 1e-9);
});

test("presets are curves", () => {
  for (const preset of PRESETS) assert.deepEqual(parseCurve(formatCurve(presetCurve(preset))), presetCurve(preset));
});
