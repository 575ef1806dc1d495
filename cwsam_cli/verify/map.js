// The report of a map against a reference: its own parts. shared.js comes before it.
function overview() {
  showCards([["overall accuracy", figure(report.accuracy), `${count(report.pixels)} ${report.unit}`], ["mean IoU", figure(report.mean_iou), ""],
    ["mean F1", figure(report.mean_f1), ""], ["kappa", figure(report.kappa), ""]]);
}

function byClass() {
  showByClass("Accuracy by class", "There are no intervals, because the reference is not a random sample.",
    [["IoU", "iou"], ["User’s accuracy", "precision"], ["Producer’s accuracy", "recall"], ["F1", "f1"]],
    [[report.unit, (entry) => (entry.absent ? "absent" : count(entry.support))]]);
}

function confusion() {
  showConfusions(report.matrix,
    `Per cent of the ${report.unit} of a row or of a column. Rows of the reference show what a class was mapped as. Columns of the map show what a mapped class really is.`,
    "reference ↓  map →",
    [["Rows: of the reference", "rows"], ["Columns: of the map", "columns"]],
    (real, mapped, cell) => `${real.name}, mapped as ${mapped.name}: ${count(cell)} ${report.unit}`);
}

function picture() {
  if (!report.picture) return;
  const made = section("Map and reference", "Click a class to hide it or show it again. Grey ground has no class.",
    legend(classes), panels(report.picture));
  made.classList.add("scenes");
}

show([overview, byClass, confusion, picture, () => showFacts("Map and reference", null)]);
