/** What the panel of the classifier shows, computed from what the server tells. Knows no page. */

/**
 * @typedef {{label: string, behind: number | null, dropped: boolean}} Row best first
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
 * One line on an image: who is left, evaluations used and saved, and how long it may still take.
 * @param {Snapshot} snapshot
 * @returns {string}
 */
export function headline(snapshot) {
  const { image, images, alive, prompts, used, saved } = snapshot;
  const parts = images > 1 ? [`image ${image + 1} of ${images}`] : [];
  parts.push(`${alive} of ${prompts} prompts left`, `${count(used)} evaluations`);
  if (saved !== undefined) {
    const share = saved / (used + saved || 1);
    parts.push(`${count(saved)} saved (${Math.round(100 * share)} %)`);
  }
  const seconds = secondsLeft(snapshot);
  if (seconds !== null) parts.push(`at most ${duration(seconds)} to go`);
  return parts.join(", ");
}

function count(evaluations) {
  return String(Number(evaluations.toFixed(1)));
}
