/** A curve of alpha over the timesteps as text and as points of a plot. Knows no page. */

/**
 * @typedef {{timestep: number, alpha: number}} Point
 * @typedef {{left: number, right: number, top: number, bottom: number}} Frame in pixels
 */

export const LAST_TIMESTEP = 999;
const MIN_ALPHA = -1;
const MAX_ALPHA = 2;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** The rows of the paper's Table 8: alpha at pure noise and at the finished image. */
export const PRESETS = [
  [0.8, 1.2],
  [0.2, 0.8],
  [0.5, 1],
  [0.7, 1],
  [0, 1.2],
  [1, 1],
];

/**
 * Points "timestep: alpha" by lines or commas, from noise to image; null for anything else.
 * @param {string} text
 * @returns {Point[] | null}
 */
export function parseCurve(text) {
  const points = [];
  for (const part of text.split(/[\n,]/)) {
    if (!part.trim()) continue;
    const numbers = part.split(":").map((number) => number.trim());
    if (numbers.length !== 2 || !numbers.every((number) => NUMBER.test(number))) return null;
    points.push({ timestep: Number(numbers[0]), alpha: Number(numbers[1]) });
  }
  const inside = points.every(
    ({ timestep, alpha }) =>
      timestep >= 0 && timestep <= LAST_TIMESTEP && Number.isFinite(alpha),
  );
  const different = new Set(points.map((point) => point.timestep)).size === points.length;
  if (!points.length || !inside || !different) return null;
  return points.sort((one, other) => other.timestep - one.timestep);
}

/**
 * @param {Point[]} points
 * @returns {string}
 */
export function formatCurve(points) {
  return points.map(({ timestep, alpha }) => `${timestep}: ${alpha}`).join("\n");
}

/**
 * @param {number[]} preset alpha at pure noise and at the finished image
 * @returns {Point[]}
 */
export function presetCurve([start, end]) {
  return [
    { timestep: LAST_TIMESTEP, alpha: start },
    { timestep: 0, alpha: end },
  ];
}

/**
 * Straight lines between the points, constant beyond the first and the last.
 * @param {Point[]} points from noise to image
 * @param {number} timestep
 * @returns {number}
 */
export function alphaAt(points, timestep) {
  const after = points.findIndex((point) => point.timestep <= timestep);
  if (after === 0) return points[0].alpha;
  if (after < 0) return points[points.length - 1].alpha;
  const [left, right] = [points[after - 1], points[after]];
  const share = (left.timestep - timestep) / (left.timestep - right.timestep);
  return left.alpha + (right.alpha - left.alpha) * share;
}

/**
 * The curve with a point somewhere else, but not beyond its neighbours.
 * @param {Point[]} points from noise to image
 * @param {number} index
 * @param {Point} place
 * @returns {Point[]}
 */
export function movePoint(points, index, place) {
  const most = index ? Math.ceil(points[index - 1].timestep) - 1 : LAST_TIMESTEP;
  const least = index + 1 < points.length ? Math.floor(points[index + 1].timestep) + 1 : 0;
  const timestep =
    most < least ? points[index].timestep : clamp(Math.round(place.timestep), least, most);
  const alpha = clamp(hundredths(place.alpha), MIN_ALPHA, MAX_ALPHA);
  return points.with(index, { timestep, alpha });
}

/**
 * The curve with a point at a timestep, on the line; the same curve where there is one already.
 * @param {Point[]} points from noise to image
 * @param {number} timestep
 * @returns {Point[]}
 */
export function addPoint(points, timestep) {
  const whole = clamp(Math.round(timestep), 0, LAST_TIMESTEP);
  if (points.some((point) => point.timestep === whole)) return points;
  const point = { timestep: whole, alpha: hundredths(alphaAt(points, whole)) };
  return [...points, point].sort((one, other) => other.timestep - one.timestep);
}

/**
 * The middle of the longest stretch without a point, the ends of the axis included.
 * @param {Point[]} points from noise to image
 * @returns {number}
 */
export function emptiestTimestep(points) {
  const stops = [LAST_TIMESTEP, ...points.map((point) => point.timestep), 0];
  const gaps = stops.slice(1).map((stop, before) => stops[before] - stop);
  const widest = gaps.indexOf(Math.max(...gaps));
  return Math.round((stops[widest] + stops[widest + 1]) / 2);
}

/**
 * The curve without a point; the last one stays.
 * @param {Point[]} points
 * @param {number} index
 * @returns {Point[]}
 */
export function removePoint(points, index) {
  return points.length > 1 ? points.toSpliced(index, 1) : points;
}

/**
 * The alphas that a plot shows: always both special ones, 0 and 1, and some room above.
 * @param {Point[]} points
 * @returns {[number, number]}
 */
export function alphaRange(points) {
  const alphas = points.map((point) => point.alpha);
  return [Math.min(-0.1, ...alphas) - 0.05, Math.max(1.35, ...alphas) + 0.05];
}

/**
 * Places in a plot, noise on the left.
 * @param {Frame} frame
 * @param {[number, number]} range of alpha
 */
export function plotScale(frame, [low, high]) {
  const width = frame.right - frame.left;
  const height = frame.bottom - frame.top;
  return {
    /** @param {number} timestep */
    x: (timestep) => frame.right - (timestep / LAST_TIMESTEP) * width,
    /** @param {number} alpha */
    y: (alpha) => frame.bottom - ((alpha - low) / (high - low)) * height,
    /** @param {number} x @param {number} y @returns {Point} */
    point: (x, y) => ({
      timestep: ((frame.right - x) / width) * LAST_TIMESTEP,
      alpha: low + ((frame.bottom - y) / height) * (high - low),
    }),
  };
}

function hundredths(alpha) {
  return Math.round(alpha * 100) / 100;
}

function clamp(value, least, most) {
  return Math.min(Math.max(value, least), most);
}
