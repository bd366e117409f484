// node --test tests/javascript/*.test.js (pytest does it too, in tests/test_playgrounds.py)
"use strict";
const assert = require("node:assert");
const test = require("node:test");
const Playground = require("../../book/playgrounds/common.js");

test("numbers are written for readers", () => {
  const written = [0.5, 0.0123456, 0.4404, -12.3456, 1234.5, 0, 1e-5, 123456, NaN].map((value) => Playground.words(value));
  assert.deepStrictEqual(written, ["0.5", "0.0123", "0.44", "−12.3", "1235", "0", "1.00e−5", "1.23e+5", "not finite"]);
});

test("ticks are round and within the range", () => {
  assert.deepStrictEqual(Playground.ticks(-5, 5), [-4, -2, 0, 2, 4]);
  assert.deepStrictEqual(Playground.ticks(0, 0.7), [0, 0.2, 0.4, 0.6]);
  assert.deepStrictEqual(Playground.logTicks(0.01, 1), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]);
  assert.deepStrictEqual(Playground.logTicks(1e-3, 10), [0.001, 0.01, 0.1, 1, 10]);
});

const SPECS = {
  lr: { value: 0.1, min: 0, max: 1 },
  on: { value: true },
  place: { value: [1, 2], min: -4, max: 4 },
  task: { value: "a", allowed: ["a", "b"] },
};
const START = Playground.fromHash(SPECS, "");

test("the address holds what differs from the start, and brings it back", () => {
  assert.strictEqual(Playground.toHash(SPECS, START), "");
  const changed = { lr: 0.25, on: false, place: [-1.5, 3], task: "b" };
  assert.strictEqual(Playground.toHash(SPECS, changed), "lr=0.25&on=0&place=-1.5,3&task=b");
  assert.deepStrictEqual(Playground.fromHash(SPECS, `#${Playground.toHash(SPECS, changed)}`), changed);
});

test("an address with mistakes is read as far as it makes sense", () => {
  assert.deepStrictEqual(Playground.fromHash(SPECS, "#lr=x&on=maybe&place=1&task=c&other=1"), START);
  assert.deepStrictEqual(Playground.fromHash(SPECS, "#place=1,&lr=Infinity"), START);
  assert.strictEqual(Playground.fromHash(SPECS, "#lr=7").lr, 1);
  assert.deepStrictEqual(Playground.fromHash(SPECS, "#place=-9,9").place, [-4, 4]);
});
