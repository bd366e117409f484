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
 * each channel (channels last). They are stored in single precision.
 *
 * kernel: the matrix product as a WebAssembly module in base64 (product.js). Without it, or where WebAssembly has no
 * vectors, JavaScript computes the product, and everything takes about three times as long.
 */
function mamlEngine(kernel) {
  "use strict";

  const SIDE = 28; // pixels of an image
  const BLOCKS = 4; // of convolution, batch norm, ReLU and max-pooling
  const TAPS = 9; // of a 3 x 3 filter
  const EPSILON = 1e-5; // of batch norm, as in PyTorch

  // ---- Kernels

  /* out = a · b, (rows x inner) · (inner x cols). a[i, k] stands at i * ai + k * ak, so that a transposed matrix is one
   * with other steps; b and out are stored row by row. */
  const vectors = vectorProduct(kernel);
  const product = vectors || plainProduct;

  /* The product by the kernel, which has a memory of its own: a and b are copied there, and out is copied back. Null
   * where the kernel does not run. */
  function vectorProduct(text) {
    let kernel;
    try {
      kernel = new WebAssembly.Instance(new WebAssembly.Module(bytesOf(text))).exports;
    } catch {
      return null; // no kernel, no WebAssembly, or none with vectors
    }
    let floats = new Float32Array(0);
    return (rows, inner, cols, a, ai, ak, b, out) => {
      // It takes four rows and eight columns at a time and reads and writes a little beyond what was asked for.
      const wide = 8 * Math.ceil(cols / 8), fromB = a.length + 4 * ai, fromOut = fromB + b.length + 8;
      const bytes = 4 * (fromOut + (rows + 4) * wide), page = 65536;
      if (bytes > kernel.memory.buffer.byteLength) {
        kernel.memory.grow(Math.ceil((bytes - kernel.memory.buffer.byteLength) / page));
      }
      if (floats.buffer !== kernel.memory.buffer) floats = new Float32Array(kernel.memory.buffer);
      floats.set(a);
      floats.set(b, fromB);
      kernel.product(rows, inner, cols, 0, 4 * ai, 4 * ak, 4 * fromB, 4 * cols, 4 * fromOut);
      if (wide === cols) out.set(floats.subarray(fromOut, fromOut + rows * cols));
      for (let i = 0; i < rows && wide !== cols; i++) {
        out.set(floats.subarray(fromOut + i * wide, fromOut + i * wide + cols), i * cols);
      }
      return out;
    };
  }

  /* The product without the kernel, two rows and four columns at a time: eight sums and six factors fit into a
   * processor's registers, and each number that is read serves several sums. Sums are in double precision. */
  function plainProduct(rows, inner, cols, a, ai, ak, b, out) {
    const evenRows = rows - (rows % 2);
    const wholeCols = cols - (cols % 4);
    for (let i = 0; i < evenRows; i += 2) {
      for (let j = 0; j < wholeCols; j += 4) {
        let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
        for (let k = 0, p = i * ai, q = j; k < inner; k++, p += ak, q += cols) {
          const a0 = a[p], a1 = a[p + ai], b0 = b[q], b1 = b[q + 1], b2 = b[q + 2], b3 = b[q + 3];
          s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
          s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
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
        for (let k = 0; k < inner; k++) s += a[i * ai + k * ak] * b[k * cols + j];
        out[i * cols + j] = s;
      }
    }
    return out;
  }

  function transposed(matrix, rows, cols) {
    const out = new Float32Array(matrix.length);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < cols; j++) out[j * rows + i] = matrix[i * cols + j];
    }
    return out;
  }

  /* Call visit(from, to, length) for what each place sees through each row of a 3 x 3 filter with one pixel of padding:
   * up to three neighbours, whose numbers stand one after the other in the input (from) and in the patches (to). */
  function eachRun(images, side, channels, visit) {
    for (let n = 0, place = 0; n < images; n++) {
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++, place++) {
          const left = Math.max(x - 1, 0), length = (Math.min(x + 1, side - 1) - left + 1) * channels;
          for (let tapY = Math.max(1 - y, 0); tapY < Math.min(side + 1 - y, 3); tapY++) {
            const tap = 3 * tapY + left - x + 1;
            visit(((n * side + y + tapY - 1) * side + left) * channels, (place * TAPS + tap) * channels, length);
          }
        }
      }
    }
  }

  /* What each place of the output sees: (places x 9 channels), so that a convolution is one matrix product. */
  function patches(input, images, side, channels) {
    const out = new Float32Array(images * side * side * TAPS * channels);
    eachRun(images, side, channels, (from, to, length) => {
      for (let i = 0; i < length; i++) out[to + i] = input[from + i];
    });
    return out;
  }

  /* The gradient of what went into `patches`: each number goes back to where it was taken from. */
  function patchesBackward(gradient, images, side, channels) {
    const out = new Float32Array(images * side * side * channels);
    eachRun(images, side, channels, (from, to, length) => {
      for (let i = 0; i < length; i++) out[from + i] += gradient[to + i];
    });
    return out;
  }

  /* The mean of each column, and one over its standard deviation. */
  function statistics(z, channels) {
    const rows = z.length / channels;
    const mean = new Float64Array(channels), scale = new Float64Array(channels);
    for (let i = 0; i < z.length; i += channels) {
      for (let c = 0; c < channels; c++) {
        const value = z[i + c];
        mean[c] += value;
        scale[c] += value * value;
      }
    }
    for (let c = 0; c < channels; c++) {
      mean[c] /= rows;
      scale[c] = 1 / Math.sqrt(scale[c] / rows - mean[c] ** 2 + EPSILON);
    }
    return { mean, scale };
  }

  /* Batch norm with the statistics of these rows, ReLU, and of each 2 x 2 places the largest; a last row or column
   * without a pair only counts in the statistics. Answers the outputs and what the backward pass needs: where in z each
   * came from. All three in one, since three of four numbers are not asked for again. */
  function normReluPool(z, images, side, channels, gain, bias) {
    const { mean, scale } = statistics(z, channels);
    const factor = gain.map((value, c) => value * scale[c]); // batch norm is z * factor + shift
    const shift = bias.map((value, c) => value - mean[c] * factor[c]);
    const half = Math.floor(side / 2), below = side * channels;
    const out = new Float32Array(images * half * half * channels), from = new Int32Array(out.length);
    for (let n = 0, o = 0; n < images; n++) {
      for (let y = 0; y < half; y++) {
        for (let x = 0; x < half; x++) {
          const corner = ((n * side + 2 * y) * side + 2 * x) * channels;
          for (let c = 0; c < channels; c++, o++) {
            const f = factor[c], s = shift[c], p = corner + c;
            const right = z[p + channels] * f + s, down = z[p + below] * f + s, across = z[p + below + channels] * f + s;
            let best = z[p] * f + s, at = p; // the first of equals, as in PyTorch
            if (right > best) { best = right; at = p + channels; }
            if (down > best) { best = down; at = p + below; }
            if (across > best) { best = across; at = p + below + channels; }
            out[o] = best > 0 ? best : 0;
            from[o] = at;
          }
        }
      }
    }
    return { out, from, z, mean, scale };
  }

  /* Gradients of a loss for what went into `normReluPool`, given its gradient for what came out. */
  function normReluPoolBackward(gradient, { out, from, z, mean, scale }, channels, gain) {
    const rows = z.length / channels;
    const dz = new Float32Array(z.length), dGain = new Float64Array(channels), dBias = new Float64Array(channels);
    for (let o = 0; o < out.length; o += channels) {
      for (let c = 0; c < channels; c++) {
        if (out[o + c] === 0) continue;
        dBias[c] += gradient[o + c];
        dGain[c] += gradient[o + c] * (z[from[o + c]] - mean[c]) * scale[c];
      }
    }
    // The mean and the deviation depend on all rows, so the part of the gradient that would move them is taken out:
    // factor * (passed - (dBias + (z - mean) * scale * dGain) / rows), where few rows were passed anything.
    const factor = scale.map((value, c) => gain[c] * value);
    const slope = factor.map((value, c) => (-value * scale[c] * dGain[c]) / rows);
    const level = factor.map((value, c) => (-value * dBias[c]) / rows - slope[c] * mean[c]);
    for (let i = 0; i < z.length; i += channels) {
      for (let c = 0; c < channels; c++) dz[i + c] = level[c] + slope[c] * z[i + c];
    }
    for (let o = 0; o < out.length; o += channels) {
      for (let c = 0; c < channels; c++) {
        if (out[o + c] > 0) dz[from[o + c]] += factor[c] * gradient[o + c];
      }
    }
    return { dz, dGain, dBias };
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
      product(rows, inner, filters, seen, inner, 1, transposed(parameters[`block${b}.weight`], filters, inner), z);
      const pooled = normReluPool(z, images, side, filters, parameters[`block${b}.gain`], parameters[`block${b}.bias`]);
      kept.push({ seen, pooled, side, channels });
      input = pooled.out;
      side = Math.floor(side / 2); // 28, 14, 7, 3, 1
      channels = filters;
    }
    const logits = new Float32Array(images * ways);
    product(images, filters, ways, input, filters, 1, transposed(parameters["head.weight"], ways, filters), logits);
    for (let i = 0; i < logits.length; i++) logits[i] += parameters["head.bias"][i % ways];
    return { logits, features: input, kept };
  }

  /* The gradient of a loss for every parameter, given its gradient for the logits. */
  function backward(parameters, pass, dLogits, images) {
    const filters = parameters["block0.gain"].length, ways = parameters["head.bias"].length;
    const gradients = { "head.weight": new Float32Array(ways * filters), "head.bias": new Float32Array(ways) };
    product(ways, images, filters, dLogits, 1, ways, pass.features, gradients["head.weight"]);
    for (let i = 0; i < dLogits.length; i++) gradients["head.bias"][i % ways] += dLogits[i];
    let gradient = new Float32Array(images * filters);
    product(images, ways, filters, dLogits, ways, 1, parameters["head.weight"], gradient);
    for (let b = BLOCKS - 1; b >= 0; b--) {
      const { seen, pooled, side, channels } = pass.kept[b];
      const inner = TAPS * channels, rows = images * side * side;
      const { dz, dGain, dBias } = normReluPoolBackward(gradient, pooled, filters, parameters[`block${b}.gain`]);
      const dWeight = new Float32Array(filters * inner);
      product(filters, rows, inner, dz, 1, filters, seen, dWeight);
      Object.assign(gradients, {
        [`block${b}.weight`]: dWeight, [`block${b}.gain`]: dGain, [`block${b}.bias`]: dBias,
      });
      if (b === 0) break; // nobody asks for the gradient of the images
      const dSeen = new Float32Array(seen.length);
      product(rows, filters, inner, dz, filters, 1, parameters[`block${b}.weight`], dSeen);
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
    return new Float32Array(bytesOf(text).buffer);
  }

  function bytesOf(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  return {
    SIDE, vectors: vectors !== null, product, patches, patchesBackward, normReluPool, normReluPoolBackward, softmax,
    crossEntropy, forward, backward, adapt, classify, follower, decode,
  };
}

if (typeof module === "object") module.exports = mamlEngine;
