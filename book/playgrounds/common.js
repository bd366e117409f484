"use strict";
// What the playgrounds share: elements, controls, charts and the state in the address. A classic script, so that the
// pages work from file://; it defines one name, Playground. Node's tests load it as a module.

const Playground = (() => {
  // As in mamlcourse/styles.py; the colours themselves stand in common.css, one set for each theme.
  const ALGORITHMS = {
    maml: { title: "MAML", colour: "var(--maml)", mark: "circle", dash: "" },
    fomaml: { title: "FOMAML", colour: "var(--fomaml)", mark: "square", dash: "7 3" },
    "maml++": { title: "MAML++", colour: "var(--maml-plus-plus)", mark: "triangle", dash: "2 3" },
  };

  // ---- Elements -----------------------------------------------------------------------------------------------------

  function fill(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // element("p", {class: "quiet", onclick: ...}, "words", another)
  const element = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  let made = 0;
  const newId = (word) => `${word}-${++made}`;

  // ---- Numbers ------------------------------------------------------------------------------------------------------

  const clip = (value, min, max) => Math.min(Math.max(value, min), max);

  // A number for reading: so many significant digits, a true minus sign, no exponent between 0.001 and 100000.
  function words(value, digits = 3) {
    if (!Number.isFinite(value)) return "not finite";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(digits - 1) : plain(value, digits);
    return text.replace("-", "−");
  }
  function plain(value, digits) {
    const rounded = Number(value.toPrecision(digits));
    return String(Math.abs(rounded) >= 10 ** digits ? Math.round(value) : rounded);
  }

  // Round numbers from min to max, about `count` of them.
  function ticks(min, max, count = 5) {
    const rough = (max - min) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(min / step - 1e-9); i * step <= max + 1e-9 * step; i++) found.push(Number((i * step).toFixed(10)));
    return found;
  }
  // Powers of ten; where there are few, also 2 and 5 times as much.
  function logTicks(min, max) {
    const factors = Math.log10(max / min) > 2.5 ? [1] : [1, 2, 5];
    const found = [];
    for (let power = Math.floor(Math.log10(min)); power <= Math.log10(max); power++)
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= min * 0.999 && value <= max * 1.001) found.push(Number(value.toPrecision(3)));
      }
    return found;
  }

  // ---- State in the address -----------------------------------------------------------------------------------------

  // spec: {name: {value, min, max}} for a number; {value: [...], min, max} for a list of numbers of that length, or with
  // `most` of any length up to that; {value, allowed: [...]} for a word; {value: true} for yes or no. What an address says
  // wrongly is ignored, what is out of range is clipped.
  function read(spec, text) {
    if (typeof spec.value === "boolean") return text === "1" ? true : text === "0" ? false : spec.value;
    const number = (part) => (part.trim() === "" || !Number.isFinite(Number(part)) ? NaN : clip(Number(part), spec.min ?? -Infinity, spec.max ?? Infinity));
    if (typeof spec.value === "number") return Number.isNaN(number(text)) ? spec.value : number(text);
    if (Array.isArray(spec.value)) {
      const found = text.split(",").map(number);
      const fits = spec.most ? found.length <= spec.most : found.length === spec.value.length;
      return fits && !found.some(Number.isNaN) ? found : spec.value;
    }
    return !spec.allowed || spec.allowed.includes(text) ? text : spec.value;
  }
  function write(value) {
    if (typeof value === "boolean") return value ? "1" : "0";
    return (Array.isArray(value) ? value : [value]).map((part) => (typeof part === "number" ? Number(part.toFixed(5)) : part)).join(",");
  }
  function fromHash(specs, hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    return Object.fromEntries(
      Object.entries(specs).map(([name, spec]) => [name, given.has(name) ? read(spec, given.get(name)) : spec.value]),
    );
  }
  function toHash(specs, values) {
    const changed = Object.entries(specs).filter(([name, spec]) => write(values[name]) !== write(spec.value));
    return changed.map(([name]) => `${name}=${encodeURIComponent(write(values[name])).replaceAll("%2C", ",")}`).join("&");
  }

  // The page's state, kept in the address. Read state.values; change it by state.set({name: value}); `onChange(values)`
  // is called after that, and when somebody changes the address.
  function state(specs, onChange) {
    const kept = { values: fromHash(specs, location.hash) };
    let waiting = null;
    function save() {
      waiting = null;
      const hash = toHash(specs, kept.values);
      try {
        history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
      } catch {
        // A page shown inside another (JupyterLab's viewer) may have no address of its own.
      }
    }
    kept.set = (changes) => {
      Object.assign(kept.values, changes);
      onChange(kept.values);
      clearTimeout(waiting); // browsers refuse an address that changes at every pixel of a drag
      waiting = setTimeout(save, 150);
    };
    kept.reset = () => kept.set(Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, spec.value])));
    kept.go = (hash) => kept.set(fromHash(specs, hash));
    kept.link = () => {
      const hash = toHash(specs, kept.values);
      return location.href.split("#")[0] + (hash ? `#${hash}` : "");
    };
    addEventListener("hashchange", () => {
      kept.values = fromHash(specs, location.hash);
      onChange(kept.values);
    });
    return kept;
  }

  // A list of links to situations: {words: what stands behind # in the address}. A click does not leave it to the browser,
  // since in a page with an address for its files (JupyterLab's viewer) such a link leads away.
  function situations(kept, all) {
    const follow = (hash) => (event) => {
      event.preventDefault();
      kept.go(hash);
    };
    return Object.entries(all).map(([title, hash]) => element("li", {}, element("a", { href: `#${hash}`, onclick: follow(hash) }, title)));
  }

  // ---- Controls -----------------------------------------------------------------------------------------------------
  // Each has .element, to put into the page, and .show(value), which shows a value without calling onChange.

  // A slider and a number for the same value. scale: "log" makes the slider even in powers of ten (min > 0).
  function numberField({ label, min, max, step, value, scale = "linear", onChange }) {
    const id = newId("number");
    const to = (number) => (scale === "log" ? Math.log10(number) : number);
    const from = (place) => (scale === "log" ? Number((10 ** place).toPrecision(2)) : place);
    const number = element("input", { type: "number", id, min, max, step: scale === "log" ? "any" : step, inputmode: "decimal" });
    const slider = element("input", { type: "range", min: to(min), max: to(max), step: scale === "log" ? 0.01 : step, "aria-label": `${label}, slider` });
    const show = (shown) => {
      number.value = String(Number(shown.toFixed(5)));
      slider.value = to(clip(shown, min, max));
      slider.setAttribute("aria-valuetext", words(shown, 4));
    };
    slider.addEventListener("input", () => {
      const chosen = clip(from(Number(slider.value)), min, max);
      show(chosen);
      onChange(chosen);
    });
    number.addEventListener("change", () => {
      const typed = number.value === "" || !Number.isFinite(Number(number.value)) ? value : Number(number.value);
      const chosen = clip(Number.isInteger(step) ? Math.round(typed) : typed, min, max);
      show(chosen);
      onChange(chosen);
    });
    show(value);
    return { element: element("div", { class: "field" }, element("label", { for: id }, label), slider, number), show };
  }

  // choices: {value: words}
  function chooser({ label, choices, value, onChange }) {
    const id = newId("choice");
    const options = Object.entries(choices).map(([name, title]) => element("option", { value: name }, title));
    const select = element("select", { id, onchange: () => onChange(select.value) }, ...options);
    const show = (shown) => (select.value = shown);
    show(value);
    return { element: element("div", { class: "field whole" }, element("label", { for: id }, label), select), show };
  }

  function checkbox({ label, value, onChange, before = null }) {
    const box = element("input", { type: "checkbox", onchange: () => onChange(box.checked) });
    const show = (shown) => (box.checked = shown);
    show(value);
    return { element: element("label", { class: "choice" }, box, ...(before ? [before] : []), label), show };
  }

  const button = (label, onclick, attributes = {}) => element("button", { type: "button", onclick, ...attributes }, label);

  // A check box for each algorithm, with the line and the mark that it has in the charts.
  // values: {name: boolean}; onChange(name, boolean).
  function algorithmBoxes({ names = Object.keys(ALGORITHMS), values, onChange }) {
    const boxes = Object.fromEntries(
      names.map((name) => [
        name,
        checkbox({ label: ALGORITHMS[name].title, value: values[name], onChange: (on) => onChange(name, on), before: swatch(name) }),
      ]),
    );
    const set = element("fieldset", {}, element("legend", {}, "Algorithms"), ...names.map((name) => boxes[name].element));
    return { element: set, show: (shown) => names.forEach((name) => boxes[name].show(shown[name])) };
  }
  function swatch(name) {
    const { colour, dash, mark } = ALGORITHMS[name];
    return svg(
      "svg",
      { width: 34, height: 14, "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 34, y1: 7, y2: 7, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash }),
      markOf(mark, 17, 7, 5, { fill: colour, stroke: "var(--text)" }),
    );
  }

  // A button that copies the address of what is shown, and says so in `status`.
  function shareButton(kept, status) {
    return button("Copy the link to this situation", async () => {
      try {
        await navigator.clipboard.writeText(kept.link());
        status.textContent = "The link is copied.";
      } catch {
        status.textContent = `The link: ${kept.link()}`;
      }
    });
  }

  // ---- Charts -------------------------------------------------------------------------------------------------------

  function markOf(shape, x, y, size, attributes) {
    if (shape === "square") return svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...attributes });
    if (shape === "triangle") return svg("path", { d: `M${x} ${y - 1.25 * size}l${1.15 * size} ${2 * size}h${-2.3 * size}z`, ...attributes });
    if (shape === "cross") return svg("path", { d: `M${x - size} ${y - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}`, ...attributes });
    return svg("circle", { cx: x, cy: y, r: size, ...attributes });
  }

  // A chart with axes in `container`, as wide as that. x and y: {label, min, max, scale: "linear" | "log", ticks: [...]}.
  // height: pixels, or "square" for the same unit in both directions where x and y have equal ranges.
  //
  // chart.draw(pen => ...) draws; it is called again when the width changes. All places are in the units of the axes:
  //   pen.line(points, style), pen.lines(several, style), pen.upright(x, style),
  //   pen.mark(x, y, style), pen.arrow([x, y], [x, y], style), pen.text(x, y, words, style),
  //   pen.path(rings, style), pen.inside (a node to append SVG to), pen.x and pen.y (units to pixels).
  // chart.handle({...}) adds a point to drag, which stays where it is when the chart is drawn anew.
  // chart.describe(words) says what is shown to those who do not see it.
  function chart(container, { title, x, y, height = 320, margin = { top: 8, right: 12, bottom: 44, left: 52 } }) {
    const axes = { x: { ...x }, y: { ...y } };
    const root = svg("svg", { role: "group", "aria-label": title });
    const picture = svg("g", { role: "img", "aria-label": title });
    const handles = svg("g");
    const shades = newId("clip");
    root.append(picture, handles);
    container.append(element("figure", { class: "chart" }, element("figcaption", {}, title), root));
    const all = [];
    let drawn = null;
    let size = { width: 0, height: 0 };

    const share = (axis, value) =>
      axis.scale === "log" ? Math.log(value / axis.min) / Math.log(axis.max / axis.min) : (value - axis.min) / (axis.max - axis.min);
    const unshare = (axis, part) =>
      axis.scale === "log" ? axis.min * (axis.max / axis.min) ** part : axis.min + part * (axis.max - axis.min);
    const plot = () => ({ width: size.width - margin.left - margin.right, height: size.height - margin.top - margin.bottom });
    const px = (value) => margin.left + share(axes.x, value) * plot().width;
    const py = (value) => margin.top + (1 - share(axes.y, value)) * plot().height;

    function frame() {
      const { width, height } = plot();
      const nodes = [
        svg("clipPath", { id: shades }, svg("rect", { x: margin.left, y: margin.top, width, height })),
        svg("rect", { class: "frame", x: margin.left, y: margin.top, width, height }),
      ];
      const marks = (axis, room) => axis.ticks || (axis.scale === "log" ? logTicks(axis.min, axis.max) : ticks(axis.min, axis.max, clip(Math.floor(room), 2, 8)));
      for (const value of marks(axes.x, width / 60))
        nodes.push(
          svg("g", { class: "tick" },
            svg("line", { class: "grid", x1: px(value), x2: px(value), y1: margin.top, y2: margin.top + height }),
            svg("text", { x: px(value), y: margin.top + height + 16, "text-anchor": "middle" }, words(value))),
        );
      for (const value of marks(axes.y, height / 40))
        nodes.push(
          svg("g", { class: "tick" },
            svg("line", { class: "grid", x1: margin.left, x2: margin.left + width, y1: py(value), y2: py(value) }),
            svg("text", { x: margin.left - 6, y: py(value) + 4, "text-anchor": "end" }, words(value))),
        );
      const middle = margin.top + height / 2;
      nodes.push(
        svg("text", { x: margin.left + width / 2, y: size.height - 6, "text-anchor": "middle" }, axes.x.label),
        svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, axes.y.label),
      );
      return nodes;
    }

    function pen(inside) {
      const draw = (node) => (inside.append(node), node);
      const joined = (points) => points.filter((p) => p.every(Number.isFinite)).map(([a, b], i) => `${i ? "L" : "M"}${px(a).toFixed(2)} ${py(b).toFixed(2)}`).join("");
      const styled = ({ colour = "var(--text)", width = 2.5, dash = "", fill = "none", opacity = 1 } = {}) =>
        ({ stroke: colour, "stroke-width": width, "stroke-dasharray": dash, fill, opacity, "stroke-linejoin": "round" });
      return {
        inside, x: px, y: py,
        line: (points, style) => draw(svg("path", { d: joined(points), ...styled(style) })),
        upright: (a, style) => draw(svg("line", { x1: px(a), x2: px(a), y1: margin.top, y2: size.height - margin.bottom, ...styled(style) })),
        lines: (many, style) => draw(svg("path", { d: many.map(joined).join(""), ...styled(style) })),
        path: (rings, style) => draw(svg("path", { d: rings.map((ring) => joined(ring) + "Z").join(""), ...styled(style) })),
        mark: (a, b, { shape = "circle", size = 5, colour = "var(--text)", border = "var(--text)", width = 1 } = {}) =>
          draw(markOf(shape, px(a), py(b), size, { fill: shape === "cross" ? "none" : colour, stroke: shape === "cross" ? colour : border, "stroke-width": width })),
        text: (a, b, said, { anchor = "start", dx = 0, dy = 0, colour = "var(--text)", weight = 400 } = {}) =>
          draw(svg("text", { x: px(a) + dx, y: py(b) + dy, "text-anchor": anchor, "font-weight": weight, style: `fill: ${colour}` , stroke: "var(--page)", "stroke-width": 3, "paint-order": "stroke" }, said)),
        arrow: (start, end, style = {}) => {
          const [x1, y1, x2, y2] = [px(start[0]), py(start[1]), px(end[0]), py(end[1])];
          const length = Math.hypot(x2 - x1, y2 - y1);
          if (length < 0.5 || !Number.isFinite(length)) return;
          const width = style.width || 3;
          const head = Math.min(3.5 * width, length);
          const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
          const [bx, by] = [x2 - head * ux, y2 - head * uy];
          draw(svg("line", { x1, y1, x2: bx, y2: by, ...styled({ ...style, width }) }));
          draw(svg("path", { d: `M${x2} ${y2}L${bx - 0.45 * head * uy} ${by + 0.45 * head * ux}L${bx + 0.45 * head * uy} ${by - 0.45 * head * ux}Z`, fill: style.colour || "var(--text)", stroke: "none" }));
        },
      };
    }

    function redraw() {
      const width = Math.max(Math.round(root.getBoundingClientRect().width || container.clientWidth), 200);
      const tall = height === "square" ? width - margin.left - margin.right + margin.top + margin.bottom : height;
      size = { width, height: tall };
      root.setAttribute("viewBox", `0 0 ${width} ${tall}`);
      root.setAttribute("height", tall);
      const inside = svg("g", { "clip-path": `url(#${shades})` });
      picture.replaceChildren(...frame(), inside);
      if (drawn) drawn(pen(inside));
      all.forEach((handle) => handle.place());
    }

    // A point to drag, by mouse, finger or arrow keys (with Shift ten times as far).
    // onMove(x, y) gets places within the axes; ways: "xy", "x" or "y", in which it may move.
    function handle({ label, x: hx, y: hy, step = 0.1, ways = "xy", colour = "var(--accent)", shape = "circle", radius = 9, onMove }) {
      const here = { x: hx, y: hy };
      const node = svg("g", { class: "handle", role: "slider", tabindex: 0, "aria-label": label });
      const place = () => {
        node.replaceChildren(
          svg("circle", { class: "touch", r: 22 }),
          markOf(shape, 0, 0, radius, { fill: colour, stroke: "var(--page)", "stroke-width": 2 }),
          svg("circle", { class: "ring", r: radius + 5 }),
        );
        node.setAttribute("transform", `translate(${px(here.x)} ${py(here.y)})`);
        const [value, axis] = ways === "y" ? [here.y, axes.y] : [here.x, axes.x];
        node.setAttribute("aria-valuenow", Number(value.toFixed(4)));
        node.setAttribute("aria-valuemin", axis.min);
        node.setAttribute("aria-valuemax", axis.max);
        node.setAttribute("aria-valuetext", ways === "xy" ? `${words(here.x)}, ${words(here.y)}` : words(value));
      };
      const move = (nx, ny) => {
        here.x = ways === "y" ? here.x : clip(nx, axes.x.min, axes.x.max);
        here.y = ways === "x" ? here.y : clip(ny, axes.y.min, axes.y.max);
        place();
        onMove(here.x, here.y);
      };
      node.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        node.setPointerCapture(event.pointerId);
        node.focus({ focusVisible: false });
      });
      node.addEventListener("pointermove", (event) => node.hasPointerCapture(event.pointerId) && move(...units(event)));
      node.addEventListener("keydown", (event) => {
        const far = step * (event.shiftKey ? 10 : 1);
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!way) return;
        event.preventDefault();
        move(here.x + far * way[0], here.y + far * way[1]);
      });
      const made = {
        node,
        place(nx = here.x, ny = here.y) {
          Object.assign(here, { x: nx, y: ny });
          place();
        },
        remove() {
          node.remove();
          all.splice(all.indexOf(made), 1);
        },
      };
      all.push(made);
      handles.append(node);
      if (size.width) place();
      return made;
    }

    // Where a mouse or finger is, in the units of the axes.
    function units(event) {
      const box = root.getBoundingClientRect();
      const scale = size.width / box.width;
      return [
        unshare(axes.x, ((event.clientX - box.left) * scale - margin.left) / plot().width),
        unshare(axes.y, 1 - ((event.clientY - box.top) * scale - margin.top) / plot().height),
      ];
    }

    let seen = 0;
    new ResizeObserver(() => {
      const width = Math.round(root.getBoundingClientRect().width);
      if (width !== seen) {
        seen = width;
        redraw();
      }
    }).observe(root);

    return {
      root, handle, units,
      draw(drawing) {
        drawn = drawing;
        redraw();
      },
      // New ranges or labels, such as {y: {max: 3}}; drawn with the next draw.
      axes(changes) {
        for (const name of ["x", "y"]) Object.assign(axes[name], changes[name]);
      },
      describe: (said) => picture.setAttribute("aria-label", `${title}: ${said}`),
    };
  }

  // A table of numbers: names of the columns, and rows [[name, cell, ...], ...].
  function table(caption, columns, rows) {
    const heading = (words, scope) => (words ? element("th", { scope }, words) : element("td"));
    const line = ([first, ...cells]) => element("tr", {}, heading(first, "row"), ...cells.map((cell) => element("td", {}, cell)));
    return element("table", { class: "numbers" }, element("caption", { class: "hidden-words" }, caption),
      element("thead", {}, element("tr", {}, ...columns.map((column) => heading(column, "col")))), element("tbody", {}, ...rows.map(line)));
  }

  // The row of links at the top of every playground: <nav class="top">. A new playground is a line more in PAGES.
  const PAGES = { "draw.html": "Draw your own", "bowl.html": "Quadratic bowl", "sinusoid.html": "Sinusoid", "trajectories.html": "Trajectories" };
  function fillNavigation() {
    const links = Object.entries(PAGES).map(([page, title]) =>
      element("a", { href: page, "aria-current": location.pathname.endsWith(`/${page}`) ? "page" : null }, title));
    document.querySelector("nav.top")?.append(...links);
  }

  // The theme that the reader chose in the book, which lies on the same host.
  function followTheBook() {
    try {
      const chosen = localStorage.getItem("mode");
      if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
    } catch {
      // Storage may be forbidden; the system's theme remains.
    }
  }

  if (typeof document !== "undefined") {
    followTheBook();
    addEventListener("DOMContentLoaded", fillNavigation);
  }
  return {
    ALGORITHMS, element, svg, clip, words, ticks, logTicks, fromHash, toHash, state, situations, numberField, chooser, checkbox, button,
    algorithmBoxes, swatch, shareButton, chart, table, newId,
  };
})();

if (typeof module !== "undefined") module.exports = Playground;
