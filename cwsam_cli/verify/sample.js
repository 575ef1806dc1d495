// The report of a map from a sample: its own parts. shared.js comes before it.
const hasBlocks = report.design.block_pixels > 1;
const amount = (value, digits) => (value === null || value === undefined ? "–"
  : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

function overview() {
  const overall = report.overall;
  const cards = [["overall accuracy", figure(overall.value), range(overall.low === null ? null : [overall.low, overall.high])],
    ["standard error", figure(overall.standard_error), "of the overall accuracy"],
    ["points", count(report.interpreted), `interpreted, of ${count(report.points)} drawn`]];
  for (const pair of report.agreements.slice(0, 1)) cards.push(["agreement of interpreters", figure(pair.agreement), pair.kappa === null ? "" : `kappa ${figure(pair.kappa)}`]);
  showCards(cards);
}

// One row per class: the estimated area with its interval, and a mark where the map's own area is.
function areaBar(value, ends, mapped, largest) {
  const across = (part) => `${(100 * Math.min(1, Math.max(0, part / largest))).toFixed(2)}%`;
  const stroke = { stroke: "var(--accent)", "stroke-width": 1.5 };
  const parts = [element("rect", { x: 0, y: 7, width: "100%", height: 8, rx: 4, fill: "var(--track)" }),
    element("rect", { x: 0, y: 7, width: across(value), height: 8, rx: 4, fill: "var(--accent-soft)" })];
  if (ends) {
    parts.push(element("line", { x1: across(ends[0]), x2: across(ends[1]), y1: 11, y2: 11, ...stroke }));
    for (const end of ends) parts.push(element("line", { x1: across(end), x2: across(end), y1: 6, y2: 16, ...stroke }));
  }
  parts.push(element("circle", { cx: across(value), cy: 11, r: 4, fill: "var(--accent)" }));
  parts.push(element("line", { x1: across(mapped), x2: across(mapped), y1: 2, y2: 20, stroke: "var(--second)", "stroke-width": 2.5 }));
  return element("svg", { role: "img", "aria-label": `estimate ${amount(value, 2)}, mapped ${amount(mapped, 2)}` }, ...parts);
}

function areas() {
  const body = element("tbody"), unit = element("th", { class: "number" });
  const draw = (name) => {
    const inHa = name === "area_ha", factor = inHa ? 1 : 100;
    const mappedOf = (entry) => factor * (inHa ? entry.mapped_ha : entry.mapped_share);
    const endsOf = (entry) => (entry.intervals[name] ? entry.intervals[name].map((end) => factor * end) : null);
    const largest = Math.max(...classes.flatMap((entry) => [factor * entry[name], mappedOf(entry), ...(endsOf(entry) || [])]));
    const digits = inHa && largest >= 1000 ? 0 : 2;
    unit.textContent = inHa ? "area, ha" : "share, %";
    body.replaceChildren(...classes.map((entry) => {
      const ends = endsOf(entry), margin = entry[`${name}_margin`];
      return element("tr", {},
        element("td", {}, swatch(entry), entry.name, entry.note ? element("span", { class: "doubt", title: entry.note }, " *") : null),
        element("td", { class: "bar" }, areaBar(factor * entry[name], ends, mappedOf(entry), largest)),
        element("td", { class: "number" }, amount(factor * entry[name], digits)),
        element("td", { class: "number optional" }, margin === null ? "–" : `± ${amount(factor * margin, digits)}`),
        element("td", { class: "number" }, ends ? ends.map((end) => amount(end, digits)).join(" to ") : "no interval"),
        element("td", { class: "number optional" }, amount(mappedOf(entry), digits)));
    }));
  };
  const head = element("tr", {}, element("th", {}, "class"), element("th", {}, ""), unit,
    element("th", { class: "number optional" }, "1.96 SE"), element("th", { class: "number" }, "95 % interval"), element("th", { class: "number optional" }, "mapped"));
  const doubts = classes.filter((entry) => entry.note);
  const units = report.in_ha ? [["Hectares", "area_ha"], ["Share of the ground", "share"]] : [["Share of the ground", "share"]];
  section("Areas",
    `The dot is the estimated area of a class, and the line across is its 95 % interval. The orange mark is the area that the ${hasBlocks ? "blocks of the map show" : "map shows"}.`,
    choice(units, draw),
    element("div", { class: "wide" }, element("table", { class: "figures" }, element("thead", {}, head), body)),
    doubts.length ? element("p", { class: "note" }, `* ${doubts.map((entry) => `${entry.name}: ${entry.note}`).join("; ")}.`) : null);
}

function assisted() {
  const helped = classes.filter((entry) => entry.assisted_share !== null);
  if (!helped.length) return;
  const name = report.in_ha ? "assisted_ha" : "assisted_share", plain = report.in_ha ? "area_ha" : "share";
  const factor = report.in_ha ? 1 : 100, digits = report.in_ha && Math.max(...helped.map((entry) => entry[name])) >= 1000 ? 0 : 2;
  section("Areas with the model’s help",
    "The model’s probabilities are known for every pixel. They correct a part of the chance in the draw of the points. The estimate stays unbiased if the probabilities are wrong. The last column compares the standard error with that of the plain estimate.",
    makeTable(["class", report.in_ha ? "area, ha" : "share, %", "95 % interval", "plain", "× plain error"], helped.map((entry) =>
      [entry.name, amount(factor * entry[name], digits), entry.intervals[name].map((end) => amount(factor * end, digits)).join(" to "),
        amount(factor * entry[plain], digits), figure(entry[`${name}_error`] / entry[`${plain}_error`], 2)])));
}

function byClass() {
  showByClass("Accuracy by class",
    "User’s accuracy is the share of the ground mapped as a class that is of the class. Producer’s accuracy is the share of the ground of a class that is mapped as it.",
    [["User’s accuracy", "users"], ["Producer’s accuracy", "producers"]],
    [["points in the map", (entry) => count(entry.points_in_map)], ["in the reference", (entry) => count(entry.points_in_reference)]]);
}

function confusion() {
  showConfusions(report.matrix,
    "Per cent of the ground of a row or of a column, estimated from the points. Rows of the map show what a mapped class really is. Columns of the reference show what a class was mapped as.",
    "map ↓  reference →",
    [["Rows: of the map", "rows"], ["Columns: of the reference", "columns"]],
    (mapped, real, cell) => `${real.name}, mapped as ${mapped.name}: ${(100 * cell).toFixed(2)} % of the ground`);
}

function picture() {
  if (!report.picture) return;
  const made = section("Map and points",
    "Dots are points where the map is right. Crosses are points where it is wrong. Click a class to hide it or show it again.",
    legend(classes), panels(report.picture));
  made.classList.add("scenes");
}

function interpreters() {
  if (!report.agreements.length) return;
  section("Agreement of interpreters", "Kappa is the agreement beyond chance.",
    makeTable(["interpreters", "points", "agreement", "kappa"], report.agreements.map((pair) =>
      [`${pair.first} and ${pair.second}`, count(pair.points), figure(pair.agreement), figure(pair.kappa)])));
}

function strata() {
  const { strata: own } = report.design;
  const inHa = own.every((stratum) => stratum.area_m2 !== null);
  section("Strata", `Within a stratum, every ${hasBlocks ? "block" : "pixel"} had the same chance to be drawn.`,
    makeTable(["stratum", ...(hasBlocks ? ["blocks"] : []), "pixels", ...(inHa ? ["ha"] : []), hasBlocks ? "drawn" : "points drawn", "interpreted"], own.map((stratum, number) =>
      [stratum.name, ...(hasBlocks ? [count(stratum.blocks)] : []), count(stratum.pixels), ...(inHa ? [amount(stratum.area_m2 / 10000, 0)] : []), count(stratum.points), count(report.interpreted_by_stratum[number])])));
}

show([overview, areas, assisted, byClass, confusion, picture, interpreters, strata, () => showFacts("Map and sample", null)]);
