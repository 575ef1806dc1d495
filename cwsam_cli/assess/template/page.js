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

function overview() {
  const names = [
    ["accuracy", "overall accuracy"], ["mean_iou", "mean IoU"], ["mean_f1", "mean F1"], ["kappa", "kappa"],
    ["mean_boundary_f1", "mean boundary F1"], ["calibration_error", "calibration error"],
  ];
  const cards = names.map(([name, title]) => element("div", { class: "card" },
    element("span", {}, title), element("b", {}, figure(report[name])), element("span", {}, range(report.intervals[name]))));
  document.querySelector(".summary").after(element("div", { class: "cards" }, ...cards));
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

function byClass() {
  const metrics = [
    ["IoU", "iou"], ["Precision (user’s)", "precision"], ["Recall (producer’s)", "recall"], ["F1", "f1"],
    ["Boundary F1", "boundary_f1"],
  ];
  const body = element("tbody");
  const draw = (name) => body.replaceChildren(...classes.map((entry) => element("tr", { class: entry.absent ? "absent" : null },
    element("td", {}, swatch(entry), entry.name),
    element("td", { class: "bar" }, interval(entry[name], entry.intervals[name])),
    element("td", { class: "number" }, figure(entry[name])),
    element("td", { class: "number optional" }, entry.intervals[name] ? range(entry.intervals[name]) : "–"),
    element("td", { class: "number" }, count(entry.support)),
    element("td", { class: "number optional" }, entry.absent ? "absent" : count(entry.blocks)))));
  const head = element("tr", {}, element("th", {}, "class"), element("th", {}, ""), element("th", { class: "number" }, "value"),
    element("th", { class: "number optional" }, "95 % interval"), element("th", { class: "number" }, "pixels"),
    element("th", { class: "number optional" }, report.blocks.are_tiles ? "tiles" : "blocks"));
  section("Accuracy by class",
    "Bars show the value, and the line across shows its 95 % interval. A class that occurs in few blocks has an uncertain interval.",
    choice(metrics, draw),
    element("div", { class: "wide" }, element("table", { class: "figures" }, element("thead", {}, head), body)));
}

function confusion() {
  const matrix = report.matrix;
  const rows = matrix.map((row) => row.reduce((sum, cell) => sum + cell, 0));
  const columns = matrix.map((_, column) => matrix.reduce((sum, row) => sum + row[column], 0));
  const isLarge = classes.length > 14;
  const table = element("table", { class: isLarge ? "matrix many" : "matrix" });
  const draw = (by) => {
    const head = element("tr", {}, element("th", { class: "axis" }, "reference ↓  map →"),
      ...classes.map((entry) => element("th", { class: "column", scope: "col", title: entry.name }, element("div", {}, entry.name))));
    table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...matrix.map((row, y) => element("tr", {},
      element("th", { class: "row", scope: "row" }, classes[y].name),
      ...row.map((cell, x) => {
        const whole = by === "rows" ? rows[y] : columns[x];
        const share = whole ? cell / whole : 0;
        const small = isLarge ? "" : cell ? "<1" : "·";
        const text = !whole ? "" : share < 0.005 ? small : (100 * share).toFixed(0);
        const title = `${classes[y].name}, mapped as ${classes[x].name}: ${count(cell)} pixels`;
        const strong = share > 0.55 ? "color:var(--paper)" : "";
        return element("td", { class: x === y ? "diagonal" : null, title, style: `background:rgba(var(--heat),${(0.04 + 0.96 * share).toFixed(3)});${whole ? strong : "background:var(--track)"}` }, text);
      })))));
  };
  section("Confusions", "Per cent of the pixels of a row or of a column. Rows of the reference show what a class was mapped as. Columns of the map show what a mapped class really is.",
    choice([["Rows: of the reference", "rows"], ["Columns: of the map", "columns"]], draw),
    element("div", { class: "wide" }, table));
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

function panels(picture) {
  const titles = [["image", "image"], ["reference", "reference"], ["map", "map"]];
  return element("div", { class: "maps" }, ...titles.map(([layer, title]) => element("figure", {},
    layer === "image" ? element("img", { src: picture.image, alt: title, width: picture.width, height: picture.height, style: "height:auto" }) : classMap(picture, layer, title),
    element("figcaption", {}, title))));
}

function legend() {
  const shown = classes.filter((entry) => entry.support || entry.predicted);
  return element("div", { class: "legend" }, ...shown.map((entry) => {
    const number = classes.indexOf(entry);
    const box = element("input", { type: "checkbox", checked: "", onchange: () => {
      if (box.checked) hidden.delete(number); else hidden.add(number);
      painters.forEach((paint) => paint());
    } });
    return element("label", {}, box, swatch(entry), entry.name);
  }));
}

function maps() {
  if (!report.pictures.places.length && !report.pictures.worst.length) return;
  const made = section("Map and reference", "Click a class to hide it or show it again, here and in the tiles below. Grey ground has no label, or no data.", legend(),
    ...report.pictures.places.flatMap((picture) => [element("p", { class: "group" }, picture.title), panels(picture)]));
  made.classList.add("scenes");
  if (report.pictures.worst.length) {
    section("Least accurate tiles", "Tiles with the smallest share of correct pixels. Look for errors of the labels, too.",
      element("div", { class: "worst" }, ...report.pictures.worst.map((picture) => element("div", {},
        element("p", { class: "group" }, picture.title), panels(picture)))));
  }
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

function reliability() {
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1], width = 420, height = 360;
  const bins = report.reliability.filter((bin) => bin.pixels);
  const { x, y, box, parts } = frame(width, height, "share of correct pixels", ticks, ticks, "confidence of the model");
  parts.push(element("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "var(--soft)", "stroke-dasharray": "4 4" }));
  for (const bin of bins) {
    const [left, right] = [x(bin.from) + 1, x(bin.to) - 1], opacity = bin.pixels < 0.005 * report.pixels ? 0.4 : 1;
    parts.push(element("rect", { opacity, x: left, width: right - left, y: y(bin.accuracy), height: y(0) - y(bin.accuracy), fill: "var(--accent-soft)" }));
    parts.push(element("circle", { cx: x(bin.confidence), cy: y(bin.accuracy), r: 3.5, fill: "var(--accent)", opacity }));
  }
  const share = frame(width, 360, "share of pixels", ticks, shareTicks(bins), "confidence of the model");
  for (const bin of bins) {
    const part = bin.pixels / report.pixels, [left, right] = [share.x(bin.from) + 1, share.x(bin.to) - 1];
    share.parts.push(element("rect", { x: left, width: right - left, y: share.y(part), height: share.y(0) - share.y(part), fill: "var(--accent-soft)" }));
  }
  const view = { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" };
  section("Confidence and accuracy", "A calibrated model follows the dashed line: of the pixels with confidence 0.8, 80 % are correct. Below the line, the model is too sure. Pale bars hold less than 0.5 % of the pixels.",
    element("div", { class: "charts" },
      element("svg", { ...view, "aria-label": "Accuracy by confidence" }, ...parts),
      element("svg", { ...view, "aria-label": "Pixels by confidence" }, ...share.parts)));
}

// Round ticks from 0 to at least the largest value.
function ticks(largest) {
  const rough = largest / 4 || 0.25, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  return Array.from({ length: Math.ceil(largest / step - 1e-9) + 1 }, (_, number) => Number((number * step).toPrecision(6)));
}
const shareTicks = (bins) => ticks(Math.max(...bins.map((bin) => bin.pixels / report.pixels)));

function scenes() {
  if (report.scenes.length > 1) {
    const rows = report.scenes.map((scene) => element("tr", {}, element("td", {}, scene.scene || "–"),
      ...[count(scene.tiles), count(scene.pixels), figure(scene.accuracy), figure(scene.mean_iou), figure(scene.kappa)]
        .map((text) => element("td", { class: "number" }, text))));
    const head = ["scene", "tiles", "pixels", "accuracy", "mean IoU", "kappa"].map((text, number) => element("th", { class: number ? "number" : null }, text));
    section("Results by scene", null, element("div", { class: "wide" }, element("table", { class: "figures" },
      element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows))));
  }
}

function curves() {
  const history = report.history;
  if (history.length < 2) return;
  const last = history[history.length - 1].epoch, first = history[0].epoch;
  const charts = [["training loss", [["train/loss", "var(--accent)"]]],
    ["validation", [["val/mIoU", "var(--accent)"], ["val/accuracy", "var(--second)"]]]].map(([title, lines]) => {
    const known = lines.map(([name, color]) => [name, color, history.filter((row) => name in row)]).filter(([, , rows]) => rows.length);
    if (!known.length) return null;
    const largest = Math.max(...known.flatMap(([name, , rows]) => rows.map((row) => row[name])));
    const epochs = ticks(last - first).map((value) => Math.round(value) + first).filter((value, at, all) => value <= last && all.indexOf(value) === at);
    if (epochs[epochs.length - 1] !== last) epochs.push(last);
    if (epochs.length > 2 && last - epochs[epochs.length - 2] < (last - first) / 12) epochs.splice(-2, 1);
    const { x, y, parts } = frame(420, 260, title, epochs, ticks(largest), "epoch");
    known.forEach(([name, color, rows], number) => {
      parts.push(element("polyline", { points: rows.map((row) => `${x(row.epoch).toFixed(1)},${y(row[name]).toFixed(1)}`).join(" "), fill: "none", stroke: color, "stroke-width": 2, "stroke-linejoin": "round" }));
      if (known.length > 1) parts.push(element("text", { x: 408 - 66 * (known.length - 1 - number), y: 12, "text-anchor": "end", style: `fill:${color}` }, name.replace("val/", "")));
    });
    return element("svg", { class: "chart", viewBox: "0 0 420 260", role: "img", "aria-label": title }, ...parts);
  });
  section("Learning curves", "From history.jsonl beside the checkpoint.", element("div", { class: "charts" }, ...charts));
}

function run() {
  const facts = report.facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  section("Model and data", null, element("dl", {}, ...facts), report.configuration
    ? element("details", {}, element("summary", {}, "Configuration of the training run"), element("pre", {}, report.configuration)) : null);
  section("Limits", null, element("ul", { class: "limits" }, ...report.limits.map((text) => element("li", {}, text))));
}

for (const part of [overview, byClass, confusion, maps, reliability, scenes, curves, run]) part();
document.documentElement.dataset.ready = "";
