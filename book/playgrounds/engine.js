"use strict";

/* The computing core of the playgrounds: a Conv4 that adapts in plain typed arrays, forward and backward.
 *
 * It computes what mamlcourse/algorithms.py computes (`InnerLoop.adapt`): θ'_{k+1} = θ'_k - α ∇L_support(θ'_k). The
 * page needs no second derivatives, for they belong to the outer loop, which was run when the weights were trained.
 *
 * Everything stands in one function, so that a page opened from a folder (file://), where scripts may not be fetched,
 * can hand its text to a Web Worker; Node's tests call the same function.
 *
 * Images are rows of pixels, ink = 1. Activations are matrices: one row for each place of each image, one column for
 * each channel (channels last). Sums are in double precision, what is stored in single.
 */
function mamlEngine() {
  "use strict";

  const SIDE = 28; // pixels of an image
  const BLOCKS = 4; // of convolution, batch norm, ReLU and max-pooling
  const TAPS = 9; // of a 3 x 3 filter
  const EPSILON = 1e-5; // of batch norm, as in PyTorch

  // ---- Kernels

  /* out = a · b, (rows x inner) · (inner x cols). a[i, k] stands at i * ai + k * ak and b[k, j] at k * bk + j * bj, so
   * that a transposed matrix is one with other steps. Two rows and four columns at a time: eight sums and six factors
   * fit into a processor's registers, and each number that is read serves several sums: three times as fast as one. */
  function product(rows, inner, cols, a, ai, ak, b, bk, bj, out) {
    const evenRows = rows - (rows % 2);
    const wholeCols = cols - (cols % 4);
    for (let i = 0; i < evenRows; i += 2) {
      for (let j = 0; j < wholeCols; j += 4) {
        let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
        let p0 = i * ai, p1 = p0 + ai;
        let q0 = j * bj, q1 = q0 + bj, q2 = q1 + bj, q3 = q2 + bj;
        for (let k = 0; k < inner; k++) {
          const a0 = a[p0], a1 = a[p1], b0 = b[q0], b1 = b[q1], b2 = b[q2], b3 = b[q3];
          s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
          s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
          p0 += ak; p1 += ak; q0 += bk; q1 += bk; q2 += bk; q3 += bk;
        }
        const o = i * cols + j;
        out[o] = s00; out[o + 1] = s01; out[o + 2] = s02; out[o + 3] = s03;
        out[o + cols] = s10; out[o + cols + 1] = s11; out[o + cols + 2] = s12; out[o + cols + 3] = s13;
      }
    }
    // What the tiles left over: the last columns of all rows, and the last row.
    for (let i = 0; i < rows; i++) {
      for (let j = i < evenRows ? wholeCols : 0; j < cols; j++) {
        let s = 0;
        for (let k = 0; k < inner; k++) s += a[i * ai + k * ak] * b[k * bk + j * bj];
        out[i * cols + j] = s;
      }
    }
    return out;
  }

  /* Call visit(row, tap, from) for each place that a 3 x 3 filter with one pixel of padding sees: from is the row of the
   * input that stands under this tap of the filter in this row of the output. */
  function eachTap(images, side, visit) {
    for (let n = 0, row = 0; n < images; n++) {
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++, row++) {
          for (let tap = 0; tap < TAPS; tap++) {
            const fromY = y - 1 + Math.floor(tap / 3), fromX = x - 1 + (tap % 3);
            const inside = fromY >= 0 && fromY < side && fromX >= 0 && fromX < side;
            if (inside) visit(row, tap, (n * side + fromY) * side + fromX);
          }
        }
      }
    }
  }

  /* What each place of the output sees: (places x 9 channels), so that a convolution is one matrix product. */
  function patches(input, images, side, channels) {
    const out = new Float32Array(images * side * side * TAPS * channels);
    eachTap(images, side, (row, tap, from) => {
      const to = (row * TAPS + tap) * channels;
      for (let c = 0; c < channels; c++) out[to + c] = input[from * channels + c];
    });
    return out;
  }

  /* The gradient of what went into `patches`: each number goes back to where it was taken from. */
  function patchesBackward(gradient, images, side, channels) {
    const out = new Float32Array(images * side * side * channels);
    eachTap(images, side, (row, tap, from) => {
      const taken = (row * TAPS + tap) * channels;
      for (let c = 0; c < channels; c++) out[from * channels + c] += gradient[taken + c];
    });
    return out;
  }

  /* Batch norm with the statistics of these rows, and ReLU. Keeps what the backward pass needs. */
  function normRelu(z, channels, gain, bias) {
    const rows = z.length / channels;
    const normal = new Float32Array(z.length), out = new Float32Array(z.length);
    const mean = new Float64Array(channels), scale = new Float64Array(channels); // one over the standard deviation
    for (let i = 0; i < z.length; i += channels) {
      for (let c = 0; c < channels; c++) mean[c] += z[i + c];
    }
    for (let c = 0; c < channels; c++) mean[c] /= rows;
    for (let i = 0; i < z.length; i += channels) {
      for (let c = 0; c < channels; c++) {
        const away = z[i + c] - mean[c];
        scale[c] += away * away;
      }
    }
    for (let c = 0; c < channels; c++) scale[c] = 1 / Math.sqrt(scale[c] / rows + EPSILON);
    for (let i = 0; i < z.length; i += channels) {
      for (let c = 0; c < channels; c++) {
        const value = (z[i + c] - mean[c]) * scale[c];
        const raised = gain[c] * value + bias[c];
        normal[i + c] = value;
        out[i + c] = raised > 0 ? raised : 0;
      }
    }
    return { out, normal, scale };
  }

  /* Gradients of a loss for what went into `normRelu`, given its gradient for what came out. */
  function normReluBackward(gradient, kept, channels, gain) {
    const { out, normal, scale } = kept;
    const rows = out.length / channels;
    const dz = new Float32Array(out.length), dGain = new Float64Array(channels), dBias = new Float64Array(channels);
    for (let i = 0; i < out.length; i += channels) {
      for (let c = 0; c < channels; c++) {
        if (out[i + c] <= 0) continue;
        dBias[c] += gradient[i + c];
        dGain[c] += gradient[i + c] * normal[i + c];
      }
    }
    // The mean and the deviation depend on all rows, so the part of the gradient that would move them is taken out.
    for (let i = 0; i < out.length; i += channels) {
      for (let c = 0; c < channels; c++) {
        const passed = out[i + c] > 0 ? gradient[i + c] : 0;
        dz[i + c] = gain[c] * scale[c] * (passed - (dBias[c] + normal[i + c] * dGain[c]) / rows);
      }
    }
    return { dz, dGain, dBias };
  }

  /* The largest of each 2 x 2 places, and where it stood; a last row or column without a pair is left out. */
  function maxPool(input, images, side, channels) {
    const half = Math.floor(side / 2);
    const out = new Float32Array(images * half * half * channels), from = new Int32Array(out.length);
    let o = 0;
    for (let n = 0; n < images; n++) {
      for (let y = 0; y < half; y++) {
        for (let x = 0; x < half; x++) {
          const corner = ((n * side + 2 * y) * side + 2 * x) * channels, below = side * channels;
          for (let c = corner; c < corner + channels; c++, o++) {
            let best = c; // the first of equals, as in PyTorch
            if (input[c + channels] > input[best]) best = c + channels;
            if (input[c + below] > input[best]) best = c + below;
            if (input[c + below + channels] > input[best]) best = c + below + channels;
            out[o] = input[best];
            from[o] = best;
          }
        }
      }
    }
    return { out, from };
  }

  /* The gradient of what went into `maxPool`, which had so many numbers. */
  function maxPoolBackward(gradient, from, length) {
    const out = new Float32Array(length);
    for (let o = 0; o < from.length; o++) out[from[o]] += gradient[o];
    return out;
  }

  /* Each row of logits as probabilities. */
  function softmax(logits, ways) {
    const out = new Float32Array(logits.length);
    for (let row = 0; row < logits.length; row += ways) {
      let most = -Infinity, total = 0;
      for (let c = 0; c < ways; c++) most = Math.max(most, logits[row + c]);
      for (let c = 0; c < ways; c++) total += Math.exp(logits[row + c] - most);
      for (let c = 0; c < ways; c++) out[row + c] = Math.exp(logits[row + c] - most) / total;
    }
    return out;
  }

  /* The mean cross-entropy of the rows, in nats, and its gradient for the logits. */
  function crossEntropy(logits, labels, ways) {
    const gradient = softmax(logits, ways);
    let loss = 0;
    for (let n = 0; n < labels.length; n++) {
      const target = n * ways + labels[n];
      loss -= Math.log(Math.max(gradient[target], 1e-38)) / labels.length;
      gradient[target] -= 1;
    }
    for (let i = 0; i < gradient.length; i++) gradient[i] /= labels.length;
    return { loss, gradient };
  }

  // ---- The network

  /* Parameters are an object of Float32Arrays: block0.weight (filters x 9 channels), block0.gain and block0.bias of
   * batch norm, ..., head.weight (ways x filters), head.bias. A convolution has no bias of its own here: batch norm
   * subtracts it again, so it changes no output and its gradient is zero. */

  /* Logits (images x ways) of so many images (images x 784), and what the backward pass needs. */
  function forward(parameters, x, images) {
    const filters = parameters["block0.gain"].length, ways = parameters["head.bias"].length;
    const kept = [];
    let side = SIDE, channels = 1, input = x;
    for (let b = 0; b < BLOCKS; b++) {
      const seen = patches(input, images, side, channels), inner = TAPS * channels;
      const rows = images * side * side;
      const z = new Float32Array(rows * filters);
      product(rows, inner, filters, seen, inner, 1, parameters[`block${b}.weight`], 1, inner, z);
      const norm = normRelu(z, filters, parameters[`block${b}.gain`], parameters[`block${b}.bias`]);
      const pooled = maxPool(norm.out, images, side, filters);
      kept.push({ seen, norm, from: pooled.from, side, channels });
      input = pooled.out;
      side = Math.floor(side / 2); // 28, 14, 7, 3, 1
      channels = filters;
    }
    const logits = new Float32Array(images * ways);
    product(images, filters, ways, input, filters, 1, parameters["head.weight"], 1, filters, logits);
    for (let i = 0; i < logits.length; i++) logits[i] += parameters["head.bias"][i % ways];
    return { logits, features: input, kept };
  }

  /* The gradient of a loss for every parameter, given its gradient for the logits. */
  function backward(parameters, pass, dLogits, images) {
    const filters = parameters["block0.gain"].length, ways = parameters["head.bias"].length;
    const gradients = { "head.weight": new Float32Array(ways * filters), "head.bias": new Float32Array(ways) };
    product(ways, images, filters, dLogits, 1, ways, pass.features, filters, 1, gradients["head.weight"]);
    for (let i = 0; i < dLogits.length; i++) gradients["head.bias"][i % ways] += dLogits[i];
    let gradient = new Float32Array(images * filters);
    product(images, ways, filters, dLogits, ways, 1, parameters["head.weight"], filters, 1, gradient);
    for (let b = BLOCKS - 1; b >= 0; b--) {
      const { seen, norm, from, side, channels } = pass.kept[b];
      const inner = TAPS * channels, rows = images * side * side;
      const dOut = maxPoolBackward(gradient, from, norm.out.length);
      const { dz, dGain, dBias } = normReluBackward(dOut, norm, filters, parameters[`block${b}.gain`]);
      const dWeight = new Float32Array(filters * inner);
      product(filters, rows, inner, dz, 1, filters, seen, inner, 1, dWeight);
      Object.assign(gradients, {
        [`block${b}.weight`]: dWeight, [`block${b}.gain`]: dGain, [`block${b}.bias`]: dBias,
      });
      if (b === 0) break; // nobody asks for the gradient of the images
      const dSeen = new Float32Array(seen.length);
      product(rows, filters, inner, dz, filters, 1, parameters[`block${b}.weight`], inner, 1, dSeen);
      gradient = patchesBackward(dSeen, images, side, channels);
    }
    return gradients;
  }

  // ---- Adaptation

  /* A learner is what tools/export_playground.py writes for an algorithm, decoded:
   *   steps           K, as in training
   *   parameters      θ
   *   learningRates   for each parameter that adapts one number for each step: all alike in MAML and FOMAML, learned in
   *                   MAML++ (LSLR)
   *   norms           for each step, gain and bias of batch norm (MAML++, BNWB); empty where θ's own adapt
   */

  /* What was learned for this step; steps beyond the last use the last's. */
  function at(learned, step) {
    return learned && learned[Math.min(step, learned.length - 1)];
  }

  /* θ'_k with the gain and bias of this step, where there are such. */
  function atStep(learner, parameters, step) {
    return { ...parameters, ...at(learner.norms, step) };
  }

  /* The inner loop: θ'_0, θ'_1, ..., θ'_K and the support loss of each, as the step that starts there sees it. */
  function adapt(learner, support, labels, steps = learner.steps) {
    const path = [];
    let parameters = learner.parameters;
    for (let k = 0; k <= steps; k++) {
      const whole = atStep(learner, parameters, k);
      const pass = forward(whole, support, labels.length);
      const { loss, gradient } = crossEntropy(pass.logits, labels, learner.ways);
      path.push({ parameters, loss });
      if (k === steps) break;
      const gradients = backward(whole, pass, gradient, labels.length);
      parameters = descended(parameters, gradients, (name) => at(learner.learningRates[name], k));
    }
    return path;
  }

  /* θ - α ∇L, for the parameters that have a learning rate. */
  function descended(parameters, gradients, rateOf) {
    const moved = { ...parameters };
    for (const [name, gradient] of Object.entries(gradients)) {
      const rate = rateOf(name);
      if (rate !== undefined) moved[name] = parameters[name].map((value, i) => value - rate * gradient[i]);
    }
    return moved;
  }

  /* The logits (queries x ways) after so many steps, each query alone with the support set: batch norm then sees the
   * same six images whatever else is asked, as with one drawing by a reader. (In the papers all queries of a task go
   * through the network together, which helps it: they tell each other what characters look like here.) */
  function classify(learner, parameters, stepsTaken, support, queries) {
    const whole = atStep(learner, parameters, Math.max(stepsTaken - 1, 0));
    const size = SIDE * SIDE, examples = support.length / size, count = queries.length / size;
    const logits = new Float32Array(count * learner.ways);
    const images = new Float32Array(support.length + size);
    images.set(support);
    for (let q = 0; q < count; q++) {
      images.set(queries.subarray(q * size, (q + 1) * size), support.length);
      const all = forward(whole, images, examples + 1).logits;
      logits.set(all.subarray(examples * learner.ways), q * learner.ways);
    }
    return logits;
  }

  /* Adapts, keeps the path of the latest support set, and classifies queries after each step: what a page asks for.
   * Answers {loss: [K + 1], logits: [K + 1] of (queries x ways)}. */
  function follower(learner) {
    let latest = null, path = [];
    return (support, labels, queries) => {
      if (!latest || latest.length !== support.length || latest.some((ink, i) => ink !== support[i])) {
        path = adapt(learner, support, labels);
        latest = support.slice();
      }
      return {
        loss: path.map((point) => point.loss),
        logits: path.map((point, k) => classify(learner, point.parameters, k, support, queries)),
      };
    };
  }

  /* A learner from the file of weights: base64 of little-endian float32 as typed arrays. */
  function decode(stored) {
    const arrays = (texts) => Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, floats(text)]));
    return {
      steps: stored.steps, ways: stored.ways, parameters: arrays(stored.parameters),
      learningRates: stored.learningRates, norms: stored.norms.map(arrays),
    };
  }

  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  return {
    SIDE, product, patches, patchesBackward, normRelu, normReluBackward, maxPool, maxPoolBackward, softmax,
    crossEntropy, forward, backward, adapt, classify, follower, decode,
  };
}

if (typeof module === "object") module.exports = mamlEngine;
