/** What the panel of the classifier shows. Run by `node --test tests/ui`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { barLengths, duration, outcome, percent, progress, secondsLeft } from "../../web/race.js";

const rows = (...behind) => behind.map((distance) => ({ label: "x", behind: distance, dropped: false }));

test("the best has a whole bar, the last none, the others by their distance", () => {
  assert.deepEqual(barLengths(rows(0, 1, 4)), [1, 0.75, 0]);
});

test("a bar shrinks when its prompt falls behind", () => {
  const before = barLengths(rows(0, 1, 4))[1];
  assert.ok(barLengths(rows(0, 3, 4))[1] < before);
});

test("prompts that cannot be told apart have whole bars, one that was never tried has none", () => {
  assert.deepEqual(barLengths(rows(0, 0)), [1, 1]);
  assert.deepEqual(barLengths(rows(0, null)), [1, 0]);
  assert.deepEqual(barLengths(rows(0)), [1]);
});

test("a dropped prompt that was ahead when it left does not reach beyond the best", () => {
  assert.deepEqual(barLengths(rows(0, 2, -1)), [1, 0, 1]);
});

test("what is left takes as long as what was done, per evaluation", () => {
  assert.equal(secondsLeft({ timed: 50, seconds: 10, left: 100 }), 20);
  assert.equal(secondsLeft({ timed: 0, seconds: 0, left: 100 }), null);
  assert.equal(secondsLeft({}), null);
});

test("durations are in the unit that says enough", () => {
  assert.equal(duration(0.2), "0 s");
  assert.equal(duration(59.7), "1 min 0 s");
  assert.equal(duration(125), "2 min 5 s");
  assert.equal(duration(7384), "2 h 3 min");
});

test("the line says who is left, what was used and how long it takes", () => {
  const running = { image: 0, images: 1, alive: 3, prompts: 40, used: 120, left: 60, timed: 60, seconds: 6 };
  assert.equal(progress(running), "3 of 40 prompts left, 120 evaluations, at most 6 s to go");
  assert.match(progress({ ...running, images: 4, image: 2 }), /^image 3 of 4, /);
});

test("at the end it says what was saved", () => {
  const ended = { image: 0, images: 1, alive: 5, prompts: 40, used: 275, saved: 525 };
  assert.equal(progress(ended), "5 of 40 prompts left, 275 evaluations, 525 saved (66 %)");
  assert.match(progress({ ...ended, saved: 0 }), /0 saved \(0 %\)$/);
});

test("at the end the probability to fit at all comes first, where it is known", () => {
  const ended = { image: 0, images: 1, alive: 1, prompts: 2, used: 8, saved: 0, fits: 0.931 };
  assert.match(progress(ended), /^probability that it fits at all: 93.1 %, 1 of 2/);
  assert.match(progress({ ...ended, fits: null }), /^1 of 2/);
});

test("percentages are rounded, but never to all or nothing", () => {
  assert.equal(percent(0.97849), "97.8 %");
  assert.equal(percent(0.99996), "> 99.9 %");
  assert.equal(percent(0.0001), "< 0.1 %");
  assert.equal(percent(1), "100.0 %");
  assert.equal(percent(0), "0.0 %");
});

test("the outcome is amber below a limit, for one label alone and where none may fit", () => {
  const ended = (chance, more) => outcome({ rows: [{ label: "cat", chance }], none: false, alone: false, ...more });
  assert.deepEqual(ended(0.978), ["cat, 97.8 % sure", "sure", "good"]);
  assert.deepEqual(ended(0.398), ["cat, 39.8 % sure", "not sure", "poor"]);
  assert.deepEqual(ended(0.978, { none: true }), ["cat, 97.8 % sure", "perhaps none of these", "poor"]);
  assert.deepEqual(ended(1, { alone: true }), ["cat, the only label", "not sure", "poor"]);
});
