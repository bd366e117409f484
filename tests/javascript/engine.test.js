"use strict";

// The engine's kernels against the plain formulas, and its gradients against finite differences.

const test = require("node:test");
const assert = require("node:assert/strict");
const mamlEngine = require("../../book/playgrounds/engine.js");
const engine = mamlEngine(require("../../book/playgrounds/product.js"));
const plain = mamlEngine(); // without the kernel

// Numbers between -1 and 1 that look random and are always the same.
function numbers(count, seed = 1) {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(12.9898 * (i + 1) + 78.233 * seed));
}

function near(found, wanted, tolerance) {
  assert.equal(found.length, wanted.length);
  found.forEach((value, i) => assert.ok(Math.abs(value - wanted[i]) <= tolerance, `${i}: ${value}, not ${wanted[i]}`));
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

test("Node runs the kernel; where there is none, or none that runs, JavaScript computes", () => {
  assert.equal(engine.vectors, true);
  assert.deepEqual([plain.vectors, mamlEngine(btoa("no module")).vectors], [false, false]);
});

test("a product is the sum over the inner index, whatever the sizes and the order in memory", () => {
  const sizes = [[1, 1, 1], [2, 3, 4], [3, 5, 7], [5, 2, 9], [4, 8, 8], [7, 3, 2], [6, 4, 16], [300, 40, 70], [3, 2, 3]];
  for (const [rows, inner, cols] of sizes) {
    const a = numbers(rows * inner), b = numbers(inner * cols, 2);
    const wanted = Array.from({ length: rows * cols }, (_, o) => {
      const i = Math.floor(o / cols), j = o % cols;
      return Array.from({ length: inner }, (_, k) => a[i * inner + k] * b[k * cols + j]).reduce((x, y) => x + y);
    });
    const at = a.map((_, o) => a[(o % rows) * inner + Math.floor(o / rows)]);
    for (const { product } of [engine, plain]) {
      near(product(rows, inner, cols, a, inner, 1, b, new Float32Array(rows * cols)), wanted, 1e-5);
      near(product(rows, inner, cols, at, 1, rows, b, new Float32Array(rows * cols)), wanted, 1e-5);
    }
  }
});

test("patches are what a 3 x 3 filter sees, with paper beyond the edge", () => {
  const image = [1, 2, 3, 4]; // 2 x 2
  const wanted = [[0, 0, 0, 0, 1, 2, 0, 3, 4], [0, 0, 0, 1, 2, 0, 3, 4, 0], [0, 1, 2, 0, 3, 4, 0, 0, 0], [1, 2, 0, 3, 4, 0, 0, 0, 0]];
  assert.deepEqual([...engine.patches(image, 1, 2, 1)], wanted.flat());
});

test("patches and their backward pass are adjoint", () => {
  const [images, side, channels] = [2, 7, 3];
  const x = numbers(images * side * side * channels), seen = engine.patches(x, images, side, channels);
  const y = numbers(seen.length, 3);
  assert.ok(Math.abs(dot(seen, y) - dot(x, engine.patchesBackward(y, images, side, channels))) < 1e-4);
});

test("batch norm, ReLU and pooling are the plain formulas, one after the other", () => {
  const [images, side, channels] = [2, 5, 3], half = 2, rows = images * side * side;
  const z = numbers(rows * channels).map((value) => 3 * value + 1);
  const gain = Float32Array.from([1.5, -0.7, 1]), bias = Float32Array.from([0.2, 0.1, -9]); // the last is all below 0
  const { out, from } = engine.normReluPool(z, images, side, channels, gain, bias);
  const after = z.map((value, i) => {
    const column = z.filter((_, other) => other % channels === i % channels);
    const mean = column.reduce((x, y) => x + y) / rows;
    const variance = column.reduce((sum, x) => sum + (x - mean) ** 2, 0) / rows;
    return Math.max((gain[i % channels] * (value - mean)) / Math.sqrt(variance + 1e-5) + bias[i % channels], 0);
  });
  const places = Array.from({ length: out.length }, (_, o) => {
    const c = o % channels, place = Math.floor(o / channels);
    const x = place % half, y = Math.floor(place / half) % half, n = Math.floor(place / half ** 2);
    return [0, 1, side, side + 1].map((more) => (n * side ** 2 + 2 * y * side + 2 * x + more) * channels + c);
  });
  near(out, places.map((four) => Math.max(...four.map((i) => after[i]))), 1e-5);
  out.forEach((value, o) => assert.ok(places[o].includes(from[o]) && Math.abs(after[from[o]] - value) < 1e-5));
  assert.ok(out.some((value) => value > 0) && out.every((value, o) => o % channels < 2 || value === 0));
});

test("of equal places the first is the largest, as in PyTorch", () => {
  const one = Float32Array.of(1);
  const { from } = engine.normReluPool([1, 2, 0, 4, 3, 9, 9, 9, 9], 1, 3, 1, one, one); // 3 x 3
  assert.deepEqual([...from], [4 - 1]);
  assert.deepEqual([...engine.normReluPool([5, 5, 5, 5], 1, 2, 1, one, one).from], [0]);
});

test("softmax sums to one and is not upset by large logits", () => {
  near(engine.softmax([1000, 1000, 0, 0], 2), [0.5, 0.5, 0.5, 0.5], 1e-7);
  const { loss } = engine.crossEntropy([0, 0, 0, 0, 0], [3], 5);
  assert.ok(Math.abs(loss - Math.log(5)) < 1e-6);
});

// A small network: 4 filters, 3 ways.
function small() {
  const parameters = { "head.weight": numbers(12, 20), "head.bias": numbers(3, 21) };
  for (let b = 0; b < 4; b++) {
    parameters[`block${b}.weight`] = numbers(4 * 9 * (b ? 4 : 1), b);
    parameters[`block${b}.gain`] = numbers(4, b + 4).map((value) => 1 + 0.3 * value);
    parameters[`block${b}.bias`] = numbers(4, b + 8);
  }
  return parameters;
}
const SUPPORT = numbers(3 * 784, 5).map(Math.abs), LABELS = [0, 1, 2];

test("every gradient is the slope of the loss", () => {
  const parameters = small();
  const lossOf = (changed) => engine.crossEntropy(engine.forward(changed, SUPPORT, 3).logits, LABELS, 3).loss;
  const pass = engine.forward(parameters, SUPPORT, 3);
  const gradients = engine.backward(parameters, pass, engine.crossEntropy(pass.logits, LABELS, 3).gradient, 3);
  assert.deepEqual(Object.keys(gradients).sort(), Object.keys(parameters).sort());
  for (const [name, gradient] of Object.entries(gradients)) {
    // Along one direction through all elements; single precision and the kinks of ReLU and pooling leave a little.
    const direction = numbers(gradient.length, 9), h = 2e-4;
    const moved = (by) => ({ ...parameters, [name]: parameters[name].map((value, i) => value + by * direction[i]) });
    const slope = (lossOf(moved(h)) - lossOf(moved(-h))) / (2 * h), wanted = dot(gradient, direction);
    assert.ok(Math.abs(slope - wanted) < 0.03 * Math.abs(wanted) + 3e-3, `${name}: ${slope}, not ${wanted}`);
  }
});

function learner(changes = {}) {
  const parameters = small();
  const learningRates = Object.fromEntries(Object.keys(parameters).map((name) => [name, [0.1, 0.1]]));
  return { steps: 2, ways: 3, parameters, learningRates, norms: [], ...changes };
}

test("adaptation lowers the support loss and leaves the learner as it is", () => {
  const one = learner(), before = small();
  const path = engine.adapt(one, SUPPORT, LABELS);
  assert.equal(path.length, 3);
  assert.ok(path[2].loss < path[0].loss);
  assert.deepEqual(one.parameters, before);
});

test("a tensor whose learning rate is 0, or that has none, stays", () => {
  const some = learner();
  some.learningRates["block1.weight"] = [0, 0];
  delete some.learningRates["block2.gain"];
  const { parameters } = engine.adapt(some, SUPPORT, LABELS)[2];
  assert.deepEqual(parameters["block1.weight"], some.parameters["block1.weight"]);
  assert.deepEqual(parameters["block2.gain"], some.parameters["block2.gain"]);
  assert.notDeepEqual(parameters["block3.weight"], some.parameters["block3.weight"]);
});

test("each step has its own batch norm, and steps beyond the last use the last's", () => {
  const norm = (gain) => ({ "block3.gain": new Float32Array(4).fill(gain) });
  const stepped = learner({ norms: [norm(1), norm(3)] });
  delete stepped.learningRates["block3.gain"];
  const { parameters } = stepped;
  const after = (steps) => engine.classify(stepped, parameters, steps, SUPPORT, SUPPORT.slice(0, 784));
  assert.deepEqual(after(0), after(1));
  assert.notDeepEqual(after(1), after(2));
  assert.deepEqual(after(2), after(7));
});

test("a query is classified the same whatever else is asked", () => {
  const one = learner(), queries = numbers(2 * 784, 7).map(Math.abs);
  const both = engine.classify(one, one.parameters, 2, SUPPORT, queries);
  assert.deepEqual(both.slice(3), engine.classify(one, one.parameters, 2, SUPPORT, queries.slice(784)));
});

test("a follower adapts anew when the support set changes, and only then", () => {
  const follow = engine.follower(learner());
  const first = follow(SUPPORT, LABELS, SUPPORT.slice(0, 784));
  assert.deepEqual(follow(SUPPORT, LABELS, SUPPORT.slice(0, 784)), first);
  const other = SUPPORT.slice();
  other[100] = 0.5;
  assert.notDeepEqual(follow(other, LABELS, SUPPORT.slice(0, 784)).loss, first.loss);
  assert.equal(follow(other, LABELS, new Float32Array(0)).logits[0].length, 0);
});
