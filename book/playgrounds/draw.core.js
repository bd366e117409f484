"use strict";

/* What "Draw your own" does without a page: ink, characters of the sheet, tasks of a round, and the address. */

function drawCore() {
  "use strict";

  const SIDE = 28; // pixels of an image that a network sees
  const GRID = 255; // coordinates in a box go from 0 to this, one byte each

  /* How a drawing is brought to what the networks saw. Their training images are 28 x 28 with ink = 1; the longer side
   * of the ink is 23.5 pixels in the mean, its middle within two pixels of the sheet's, and the pens have radii from 0.6
   * to 1.1 (tools/draw_glyphs.py). So a drawing, however large, wherever in the box and whatever the width of the line
   * on the screen, is centred by its box, scaled to that size, and inked anew along the pen's path with the middle one
   * of those pens. A dot or a tick stays small. */
  const SIZE = 23.5; // pixels of the longer side, ink included
  const RADIUS = 0.85; // pixels of the pen
  const SMALLEST = 0.2 * GRID; // a smaller drawing is enlarged as if it had this extent

  /* The image (784 numbers from 0 to 1) of strokes, each a list of points [x, y]; all paper if there are none. */
  function inked(strokes) {
    const image = new Float32Array(SIDE * SIDE);
    const points = strokes.flat();
    if (!points.length) return image;
    const [left, right] = range(points.map((point) => point[0]));
    const [top, bottom] = range(points.map((point) => point[1]));
    const scale = (SIZE - 2 * RADIUS) / Math.max(right - left, bottom - top, SMALLEST);
    const onSheet = ([x, y]) => [
      SIDE / 2 + (x - (left + right) / 2) * scale,
      SIDE / 2 + (y - (top + bottom) / 2) * scale,
    ];
    for (const stroke of strokes) {
      const path = stroke.map(onSheet);
      path.forEach((point, i) => inkLine(image, path[Math.max(i - 1, 0)], point));
    }
    return image;
  }

  /* Ink every pixel by how far its middle lies within the pen's reach of the line from a to b. */
  function inkLine(image, a, b) {
    const reach = RADIUS + 0.5;
    const [x0, x1] = range([a[0], b[0]]), [y0, y1] = range([a[1], b[1]]);
    for (let y = Math.max(Math.floor(y0 - reach), 0); y < Math.min(y1 + reach, SIDE); y++) {
      for (let x = Math.max(Math.floor(x0 - reach), 0); x < Math.min(x1 + reach, SIDE); x++) {
        const ink = Math.min(Math.max(reach - distance([x + 0.5, y + 0.5], a, b), 0), 1);
        image[y * SIDE + x] = Math.max(image[y * SIDE + x], ink);
      }
    }
  }

  /* From a point to the line between a and b. */
  function distance([x, y], a, b) {
    const dx = b[0] - a[0], dy = b[1] - a[1];
    const along = ((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy || 1);
    const t = Math.min(Math.max(along, 0), 1);
    return Math.hypot(x - a[0] - t * dx, y - a[1] - t * dy);
  }

  function range(numbers) {
    return [Math.min(...numbers), Math.max(...numbers)];
  }

  /* A stroke with fewer points: those that the line between their neighbours misses by more than the tolerance
   * (Ramer, Douglas and Peucker). What is drawn is kept so, that a link holds it and gives the same image again. */
  function simplified(stroke, tolerance = 1.5) {
    const whole = stroke.map((point) => point.map((value) => Math.min(Math.max(Math.round(value), 0), GRID)));
    const keep = (first, last) => {
      let farthest = 0, at = -1;
      for (let i = first + 1; i < last; i++) {
        const missed = distance(whole[i], whole[first], whole[last]);
        if (missed > farthest) [farthest, at] = [missed, i];
      }
      return farthest > tolerance ? [...keep(first, at), ...keep(at, last).slice(1)] : [whole[first], whole[last]];
    };
    return whole.length > 1 ? keep(0, whole.length - 1) : whole;
  }

  /* The sheet of built-in characters: {letters: [[script, name]], writers, image(letter, writer)}. */
  function sheet(stored) {
    const bytes = bytesOf(stored.pixels), half = (SIDE * SIDE) / 2;
    const image = (letter, writer) => {
      const start = (letter * stored.writers + writer) * half;
      return Float32Array.from({ length: 2 * half }, (_, i) => {
        const pair = bytes[start + (i >> 1)];
        return (i % 2 ? pair & 15 : pair >> 4) / 15;
      });
    };
    return { letters: stored.letters, writers: stored.writers, image };
  }

  /* What a box holds is {strokes}, or {letter, writer} of the sheet; nothing is {strokes: []}. */
  const EMPTY = { strokes: [] };

  function isEmpty(box) {
    return box.strokes !== undefined && box.strokes.length === 0;
  }

  function imageOf(box, characters) {
    return box.strokes ? inked(box.strokes) : characters.image(box.letter, box.writer);
  }

  // ---- The address

  const VERSION = 1, PICKED = 255;

  /* Boxes as letters for an address: for each the number of strokes, of each the number of points and these; or 255,
   * the letter's number in two bytes and the writer. */
  function encoded(boxes) {
    const bytes = [VERSION];
    for (const box of boxes) {
      if (!box.strokes) {
        bytes.push(PICKED, box.letter >> 8, box.letter & 255, box.writer);
        continue;
      }
      bytes.push(box.strokes.length);
      for (const stroke of box.strokes) bytes.push(stroke.length, ...stroke.flat());
    }
    const text = btoa(String.fromCharCode(...bytes));
    return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  /* The boxes of `encoded`; null if the text is not that of so many boxes. */
  function decoded(text, count, characters) {
    let bytes;
    try {
      bytes = bytesOf(text.replaceAll("-", "+").replaceAll("_", "/"));
    } catch {
      return null; // no base64
    }
    let at = 0;
    const next = () => (at < bytes.length ? bytes[at++] : NaN);
    if (next() !== VERSION) return null;
    const boxes = [];
    while (boxes.length < count) {
      const first = next();
      if (first === PICKED) {
        const box = { letter: next() * 256 + next(), writer: next() };
        if (!(box.letter < characters.letters.length && box.writer < characters.writers)) return null;
        boxes.push(box);
      } else {
        const strokes = [];
        while (strokes.length < first) {
          const points = next(), stroke = [];
          while (stroke.length < points) stroke.push([next(), next()]);
          if (!stroke.length || stroke.some(([x, y]) => Number.isNaN(x + y))) return null;
          strokes.push(stroke);
        }
        if (Number.isNaN(first)) return null;
        boxes.push({ strokes });
      }
    }
    return at === bytes.length ? boxes : null;
  }

  /* Strokes as few and short enough for one byte each; a drawing beyond that loses its first lines. */
  function storable(strokes) {
    const parts = [];
    for (const stroke of strokes) {
      for (let i = 0; i === 0 || i < stroke.length - 1; i += 254) parts.push(stroke.slice(i, i + 255));
    }
    return parts.slice(-(PICKED - 1));
  }

  function bytesOf(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  // ---- A round

  /* Random numbers from 0 to 1, always the same for a seed, so that a teacher can give a class the same round: a linear
   * congruential generator, of which the upper bits are good enough to choose letters by. */
  function randomly(seed) {
    let state = (seed * 2654435761) >>> 0;
    return () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state >>> 8) / 2 ** 24;
    };
  }

  /* So many different numbers below n. */
  function sample(n, count, random) {
    const chosen = new Set();
    while (chosen.size < count) chosen.add(Math.floor(random() * n));
    return [...chosen];
  }

  /* The tasks of a round: {support: five boxes, query: a box, label}; support and query by different writers. */
  function tasksOf(seed, count, ways, characters) {
    const random = randomly(seed);
    return Array.from({ length: count }, () => {
      const support = sample(characters.letters.length, ways, random).map((letter) => ({
        letter, writer: Math.floor(random() * characters.writers),
      }));
      const label = Math.floor(random() * ways);
      const others = characters.writers - 1;
      const writer = (support[label].writer + 1 + Math.floor(random() * others)) % characters.writers;
      return { support, query: { letter: support[label].letter, writer }, label };
    });
  }

  return { SIDE, GRID, SIZE, EMPTY, inked, simplified, sheet, isEmpty, imageOf, encoded, decoded, storable, tasksOf };
}

if (typeof module === "object") module.exports = drawCore;
