// The report of a model: its own parts. shared.js comes before it.
function overview() {
  const names = [
    ["accuracy", "overall accuracy"], ["mean_iou", "mean IoU"], ["mean_f1", "mean F1"], ["kappa", "kappa"],
    ["mean_boundary_f1", "mean boundary F1"], ["calibration_error", "calibration error"],
  ];
  showCards(names.map(([name, title]) => [title, figure(report[name]), range(report.intervals[name])]));
}

function byClass() {
  const metrics = [
    ["IoU", "iou"], ["Precision (user’s)", "precision"], ["Recall (producer’s)", "recall"], ["F1", "f1"],
    ["Boundary F1", "boundary_f1"],
  ];
  showByClass("Accuracy by class",
    "Bars show the value, and the line across shows its 95 % interval. A class that occurs in few blocks has an uncertain interval.",
    metrics,
    [["pixels", (entry) => count(entry.support)],
      [report.blocks.are_tiles ? "tiles" : "blocks", (entry) => (entry.absent ? "absent" : count(entry.blocks))]]);
}

function confusion() {
  showConfusions(report.matrix,
    "Per cent of the pixels of a row or of a column. Rows of the reference show what a class was mapped as. Columns of the map show what a mapped class really is.",
    "reference ↓  map →",
    [["Rows: of the reference", "rows"], ["Columns: of the map", "columns"]],
    (real, mapped, cell) => `${real.name}, mapped as ${mapped.name}: ${count(cell)} pixels`);
}

function maps() {
  if (!report.pictures.places.length && !report.pictures.worst.length) return;
  const made = section("Map and reference", "Click a class to hide it or show it again, here and in the tiles below. Grey ground has no label, or no data.", legend(classes.filter((entry) => entry.support || entry.predicted)),
    ...report.pictures.places.flatMap((picture) => [element("p", { class: "group" }, picture.title), panels(picture)]));
  made.classList.add("scenes");
  if (report.pictures.worst.length) {
    section("Least accurate tiles", "Tiles with the smallest share of correct pixels. Look for errors of the labels, too.",
      element("div", { class: "worst" }, ...report.pictures.worst.map((picture) => element("div", {},
        element("p", { class: "group" }, picture.title), panels(picture)))));
  }
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

const shareTicks = (bins) => ticks(Math.max(...bins.map((bin) => bin.pixels / report.pixels)));

function scenes() {
  if (report.scenes.length < 2) return;
  section("Results by scene", null, makeTable(["scene", "tiles", "pixels", "accuracy", "mean IoU", "kappa"],
    report.scenes.map((scene) => [scene.scene || "–", count(scene.tiles), count(scene.pixels), figure(scene.accuracy), figure(scene.mean_iou), figure(scene.kappa)])));
}

function parts() {
  const show = (title, note, head, rows) => {
    if (!rows.length) return;
    section(title, `${note} Intervals from fewer than 10 ${report.blocks.are_tiles ? "tiles" : "blocks"} are not reliable.`, makeTable([head, "accuracy", "95 % interval", "pixels", report.blocks.are_tiles ? "tiles" : "blocks"],
      rows.map((row) => [row.part, figure(row.accuracy), range(row.interval), count(row.pixels), count(row.blocks)])));
  };
  show("Accuracy by group of experts", "Each pixel counts for the group to which the router gave most weight, as `predict --experts` maps it.", "group", report.expert_groups);
  show("Accuracy by distance from training ground", "Distance of a tile from the nearest training tile of the dataset, in at most five ranges. Tiles of equal distance share a range. If the model learned from another dataset, the distances say nothing.", "distance", report.distances_from_training);
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
  showFacts("Model and data", report.configuration
    ? element("details", {}, element("summary", {}, "Configuration of the training run"), element("pre", {}, report.configuration)) : null);
}

show([overview, byClass, confusion, maps, reliability, scenes, parts, curves, run]);
