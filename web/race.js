/** What the panel of the classifier shows, computed from what the server tells. Knows no page. */

export const FITS = 0.5; // a smaller probability to fit at all is marked
const SURE = 0.9; // a smaller confidence is shown as none to rely on

/**
 * @typedef {object} Row best first
 * @property {string} label
 * @property {number | null} behind
 * @property {boolean} dropped
 * @property {number | null} [chance] to be the best, at the end
 * @typedef {object} Snapshot
 * @property {Row[]} rows the best prompts
 * @property {number} prompts how many there are
 * @property {number} alive how many of them are left
 * @property {number} image
 * @property {number} images
 * @property {number} used evaluations so far
 * @property {number} [left] evaluations that may still come
 * @property {number} [timed] evaluations in `seconds`
 * @property {number} [seconds]
 * @property {number} [saved] evaluations that were not needed, at the end
 * @property {boolean} [none] perhaps no prompt fits, at the end
 * @property {number | null} [fits] the probability that the best fits at all, at the end
 * @property {boolean} [alone] there was but one prompt
 */

/**
 * The length of each bar as a share: 1 for the best, the less the further behind, 0 for the last.
 * @param {Row[]} rows
 * @returns {number[]}
 */
export function barLengths(rows) {
  const behind = rows.map((row) => Math.max(row.behind ?? Infinity, 0));
  const furthest = Math.max(0, ...behind.filter(Number.isFinite));
  return behind.map((distance) => {
    if (distance === Infinity) return 0;
    return furthest ? 1 - distance / furthest : 1;
  });
}

/**
 * Seconds until the end at the pace so far; null as long as there is none.
 * @param {Snapshot} snapshot
 * @returns {number | null}
 */
export function secondsLeft({ left, timed, seconds }) {
  return timed > 0 ? (seconds / timed) * left : null;
}

/**
 * @param {number} seconds
 * @returns {string}
 */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/**
 * A share in percent; what is rounded to none or all of it is told from those.
 * @param {number} share
 * @returns {string}
 */
export function percent(share) {
  const rounded = (100 * share).toFixed(1);
  if (rounded === "100.0" && share < 1) return "> 99.9 %";
  if (rounded === "0.0" && share > 0) return "< 0.1 %";
  return `${rounded} %`;
}

/**
 * How an image ended: words, a badge, and "good" or "poor" for whether to rely on it.
 * @param {Snapshot} snapshot
 * @returns {[string, string, string]}
 */
export function outcome({ rows: [{ label, chance }], none, alone }) {
  const words = alone ? `${label}, the only label` : `${label}, ${percent(chance)} sure`;
  if (none) return [words, "perhaps none of these", "poor"];
  return chance >= SURE && !alone ? [words, "sure", "good"] : [words, "not sure", "poor"];
}

/**
 * One line on an image: who is left, evaluations used and saved, and how long it may still take.
 * @param {Snapshot} snapshot
 * @returns {string}
 */
export function progress(snapshot) {
  const { image, images, alive, prompts, used, saved, fits } = snapshot;
  const parts = images > 1 ? [`image ${image + 1} of ${images}`] : [];
  parts.push(`${alive} of ${prompts} prompts left`, `${count(used)} evaluations`);
  if (saved !== undefined) {
    const share = saved / (used + saved || 1);
    parts.push(`${count(saved)} saved (${Math.round(100 * share)} %)`);
  }
  if (typeof fits === "number") parts.unshift(`probability that it fits at all: ${percent(fits)}`);
  const seconds = secondsLeft(snapshot);
  if (seconds !== null) parts.push(`at most ${duration(seconds)} to go`);
  return parts.join(", ");
}

function count(evaluations) {
  return String(Number(evaluations.toFixed(1)));
}
