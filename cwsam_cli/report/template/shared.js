"use strict";
// The page shows one JSON object. Texts enter as text nodes only, so class names cannot become markup.
const report = JSON.parse(document.getElementById("data").textContent);
const classes = report.classes;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, ...children) {
  const isDrawing = ["svg", "rect", "line", "path", "circle", "text", "g", "polyline"].includes(name);
  const made = isDrawing ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "onclick" || key === "onchange") made[key] = value;
    else if (key === "style") made.style.cssText = value;
    else if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function section(title, note, ...children) {
  const made = element("section", {}, element("h2", {}, title), note ? element("p", { class: "note" }, note) : null, ...children);
  document.getElementById("sections").append(made);
  return made;
}

const figure = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const count = (value) => value.toLocaleString("en-US");
const range = (ends) => (ends ? `${figure(ends[0])} to ${figure(ends[1])}` : "no interval");
const swatch = (entry) => element("span", { class: "swatch", style: `background:${entry.color}` });

// Buttons of which one is pressed.
function choice(options, act) {
  const buttons = options.map(([label, value]) =>
    element("button", { type: "button", onclick: () => press(value) }, label));
  const press = (value) => {
    options.forEach(([, own], number) => buttons[number].setAttribute("aria-pressed", String(own === value)));
    act(value);
  };
  press(options[0][1]);
  return element("div", { class: "choice", role: "group" }, ...buttons);
}

function showCards(cards) {
  const made = cards.map(([title, value, below]) => element("div", { class: "card" },
    element("span", {}, title), element("b", {}, value), element("span", {}, below)));
  document.querySelector(".summary").after(element("div", { class: "cards" }, ...made));
}

function makeTable(head, rows) {
  const cell = (name, text, number) => element(name, { class: number ? "number" : null }, text);
  return element("div", { class: "wide" }, element("table", { class: "figures" },
    element("thead", {}, element("tr", {}, ...head.map((text, number) => cell("th", text, number)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text, number) => cell("td", text, number)))))));
}

function interval(value, ends) {
  const across = (share) => `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`;
  const parts = [element("rect", { x: 0, y: 7, width: "100%", height: 8, rx: 4, fill: "var(--track)" })];
  if (value !== null) {
    parts.push(element("rect", { x: 0, y: 7, width: across(value), height: 8, rx: 4, fill: "var(--accent-soft)" }));
    if (ends) {
      const stroke = { stroke: "var(--accent)", "stroke-width": 1.5 };
      parts.push(element("line", { x1: across(ends[0]), x2: across(ends[1]), y1: 11, y2: 11, ...stroke }));
      for (const end of ends) parts.push(element("line", { x1: across(end), x2: across(end), y1: 6, y2: 16, ...stroke }));
    }
    parts.push(element("circle", { cx: across(value), cy: 11, r: 4, fill: "var(--accent)" }));
  }
  return element("svg", { role: "img", "aria-label": `${figure(value)}, ${range(ends)}` }, ...parts);
}

// One row per class: a bar with its interval, and further columns [head, text of a class].
function showByClass(title, note, metrics, further) {
  const body = element("tbody");
  const draw = (name) => body.replaceChildren(...classes.map((entry) => element("tr", { class: entry.absent ? "absent" : null },
    element("td", {}, swatch(entry), entry.name),
    element("td", { class: "bar" }, interval(entry[name], entry.intervals[name])),
    element("td", { class: "number" }, figure(entry[name])),
    element("td", { class: "number optional" }, entry.intervals[name] ? range(entry.intervals[name]) : "–"),
    ...further.map(([, text], number) => element("td", { class: number ? "number optional" : "number" }, text(entry))))));
  const head = element("tr", {}, element("th", {}, "class"), element("th", {}, ""), element("th", { class: "number" }, "value"),
    element("th", { class: "number optional" }, "95 % interval"),
    ...further.map(([text], number) => element("th", { class: number ? "number optional" : "number" }, text)));
  section(title, note, choice(metrics, draw),
    element("div", { class: "wide" }, element("table", { class: "figures" }, element("thead", {}, head), body)));
}

// A matrix in per cent of its rows or columns; `titles` are [button, "rows" or "columns"], `describe` is the text of a cell.
function showConfusions(matrix, note, corner, titles, describe) {
  const rows = matrix.map((row) => row.reduce((sum, cell) => sum + cell, 0));
  const columns = matrix.map((_, column) => matrix.reduce((sum, row) => sum + row[column], 0));
  const isLarge = classes.length > 14;
  const table = element("table", { class: isLarge ? "matrix many" : "matrix" });
  const draw = (by) => {
    const head = element("tr", {}, element("th", { class: "axis" }, corner),
      ...classes.map((entry) => element("th", { class: "column", scope: "col", title: entry.name }, element("div", {}, entry.name))));
    table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...matrix.map((row, y) => element("tr", {},
      element("th", { class: "row", scope: "row" }, classes[y].name),
      ...row.map((cell, x) => {
        const whole = by === "rows" ? rows[y] : columns[x];
        const share = whole ? cell / whole : 0;
        const small = isLarge ? "" : cell ? "<1" : "·";
        const text = !whole ? "" : share < 0.005 ? small : (100 * share).toFixed(0);
        const strong = share > 0.55 ? "color:var(--paper)" : "";
        return element("td", { class: x === y ? "diagonal" : null, title: describe(classes[y], classes[x], cell), style: `background:rgba(var(--heat),${(0.04 + 0.96 * share).toFixed(3)});${whole ? strong : "background:var(--track)"}` }, text);
      })))));
  };
  section("Confusions", note, choice(titles, draw), element("div", { class: "wide" }, table));
}

// Class indices arrive as zlib-compressed bytes in base64.
async function indices(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const hidden = new Set();
const painters = [];

function classMap(picture, layer, label) {
  const canvas = element("canvas", { width: picture.width, height: picture.height, role: "img", "aria-label": label });
  indices(picture[layer]).then((values) => {
    const paint = () => {
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(picture.width, picture.height);
      values.forEach((index, at) => {
        if (index >= classes.length || hidden.has(index)) return;
        const color = parseInt(classes[index].color.slice(1), 16);
        pixels.data.set([color >> 16, (color >> 8) & 255, color & 255, 255], 4 * at);
      });
      context.putImageData(pixels, 0, 0);
    };
    painters.push(paint);
    paint();
  });
  return canvas;
}

// The layers of a picture beside each other; points lie on the map: dots where it is right, crosses where it is wrong.
function panels(picture) {
  const layers = ["image", "reference", "map"].filter((layer) => picture[layer]);
  return element("div", { class: `maps of-${layers.length}` }, ...layers.map((layer) => element("figure", {},
    layer === "image" ? element("img", { src: picture.image, alt: layer, width: picture.width, height: picture.height, style: "height:auto" })
      : layer === "map" && picture.points ? element("div", { class: "under-points" }, classMap(picture, layer, layer), pointsOf(picture))
      : classMap(picture, layer, layer),
    element("figcaption", {}, layer))));
}

function pointsOf(picture) {
  const size = Math.max(picture.width, picture.height) / 110;
  const cross = (x, y) => `M${x - size},${y - size}l${2 * size},${2 * size}m0,${-2 * size}l${-2 * size},${2 * size}`;
  const right = picture.points.filter((point) => point[2]), wrong = picture.points.filter((point) => !point[2]);
  const around = wrong.map(([x, y]) => cross(x, y)).join("");
  return element("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, role: "img", "aria-label": `${right.length} points where the map is right, ${wrong.length} where it is wrong` },
    ...right.map(([x, y]) => element("circle", { cx: x, cy: y, r: size * 0.6, class: "right", style: `stroke-width:${size / 3}` })),
    element("path", { d: around, class: "halo", style: `stroke-width:${size * 1.1}` }),
    element("path", { d: around, class: "wrong", style: `stroke-width:${size / 2}` }));
}

// Boxes that hide classes in all pictures.
function legend(shown) {
  return element("div", { class: "legend" }, ...shown.map((entry) => {
    const number = classes.indexOf(entry);
    const box = element("input", { type: "checkbox", checked: "", onchange: () => {
      if (box.checked) hidden.delete(number); else hidden.add(number);
      painters.forEach((paint) => paint());
    } });
    return element("label", {}, box, swatch(entry), entry.name);
  }));
}

function frame(width, height, title, xs, ys, xTitle, yTitle) {
  const box = { left: 44, top: 26, right: width - 12, bottom: height - 36 };
  const span = (ends, low, high) => (value) => low + ((value - ends[0]) / (ends[1] - ends[0] || 1)) * (high - low);
  const x = span([xs[0], xs[xs.length - 1]], box.left, box.right), y = span([ys[0], ys[ys.length - 1]], box.bottom, box.top);
  const parts = [element("text", { x: box.left, y: 12, class: "title" }, title)];
  for (const value of ys) parts.push(
    element("line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: "grid" }),
    element("text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  for (const value of xs) parts.push(element("text", { x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, String(value)));
  parts.push(element("text", { x: (box.left + box.right) / 2, y: height - 2, "text-anchor": "middle" }, xTitle));
  if (yTitle) parts.push(element("text", { x: box.right, y: 12, "text-anchor": "end" }, yTitle));
  return { x, y, box, parts };
}

// Round ticks from 0 to at least the largest value.
function ticks(largest) {
  const rough = largest / 4 || 0.25, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  return Array.from({ length: Math.ceil(largest / step - 1e-9) + 1 }, (_, number) => Number((number * step).toPrecision(6)));
}

function showFacts(title, further) {
  const facts = report.facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  section(title, null, element("dl", {}, ...facts), further);
  section("Limits", null, element("ul", { class: "limits" }, ...report.limits.map((text) => element("li", {}, text))));
}

function show(parts) {
  for (const part of parts) part();
  document.documentElement.dataset.ready = "";
}
