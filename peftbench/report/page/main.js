// Data read, filters made, everything drawn.

const data = JSON.parse(document.getElementById("page-data").textContent);
const tip = new Tip(document.getElementById("page-tip"));
for (const row of data.rows) row.searched = searchText(row);

const GENERALIZATION = ["#0072B2", "o"];
const MEMORIZATION = ["#D55E00", "s"];

function grouped(rows, keyOf) {
  const groups = new Map();
  for (const row of rows) {
    const key = JSON.stringify(keyOf(row));
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return [...groups.entries()].sort(([a], [b]) => BY_WORDS.compare(a, b)).map(([, found]) => found);
}

function runFacts(row) {
  return [
    [row.metric, `${scoreText(row)} on ${row.split}`],
    ["effective parameters", whole(row.effective)],
    ["trained parameters", whole(row.trained)],
    ["ranks", row.after === null ? "" : `${whole(row.before)} → ${whole(row.after)}`],
    ["seconds per epoch", decimals(row.epoch_s, 1)],
    ["protocol", row.protocol],
    ["data", row.mark],
    ["run", row.run],
  ].filter(([key, value]) => key && value);
}

function runTitle(row) {
  return `${row.label} · ${row.task} · ${row.model} · seed ${row.seed}`;
}

function panelTitle(group) {
  const { task, model, protocol, ground, train_rows: rows } = group[0];
  const several = data.rows.some((row) => row.task === task && row.model === model && row.ground !== ground);
  const amount = rows === null ? [] : [many(rows, "training row")];
  return [task, model, `protocol ${protocol}`, ...amount, ...(several ? [ground] : []), many(group.length, "run")].join(" · ");
}

// Scores of one task and model by one metric, split, protocol, kind and amount of data: whatever else is not to be
// compared.
function scoreSpecs(rows) {
  const drawn = rows.filter((row) => row.score !== null && row.effective !== null);
  return grouped(drawn, (row) => [row.task, row.model, row.metric, row.split, row.protocol, row.mark, row.train_rows, row.ground]).map((group) => ({
    title: panelTitle(group),
    mark: group[0].mark,
    xName: "effective parameters, head not counted",
    yName: `${group[0].metric}, ${group[0].split}`,
    points: group.map((row) => ({
      x: row.effective,
      y: row.score,
      row,
      marks: data.marks[row.method],
      title: runTitle(row),
      facts: runFacts(row),
    })),
  }));
}

function stagePoints(row, key, marks) {
  return row.stages
    .filter((stage) => stage[key] !== null && stage.effective !== null)
    .map((stage) => ({
      x: stage.effective,
      y: stage[key],
      row,
      marks,
      title: `${runTitle(row)} · stage ${stage.name}`,
      facts: [
        ["generalization", stage.generalization === null ? "" : `${decimals(stage.generalization, 2)} %`],
        ["memorization", stage.memorization === null ? "" : `${decimals(stage.memorization, 2)} %`],
        ["effective parameters", whole(stage.effective)],
        ["live ranks", whole(stage.ranks)],
        ["run", row.run],
      ].filter(([, value]) => value),
    }));
}

function stageSpecs(rows) {
  const staged = rows.filter((row) => row.stages.length);
  const specs = grouped(staged, (row) => [row.task, row.model, row.protocol, row.mark, row.train_rows, row.ground]).map((group) => {
    const curves = group.flatMap((row) => [
      { points: stagePoints(row, "generalization", GENERALIZATION), marks: GENERALIZATION },
      { points: stagePoints(row, "memorization", MEMORIZATION), marks: MEMORIZATION, dashed: true },
    ]);
    return {
      title: panelTitle(group),
      mark: group[0].mark,
      xName: "effective parameters, head not counted",
      yName: "% of the dense stage's score",
      curves: curves.filter((curve) => curve.points.length > 1),
      points: curves.flatMap((curve) => curve.points),
    };
  });
  return specs.filter((spec) => spec.points.length);
}

const table = new RunTable(document.getElementById("page-run-table"), data);
const filters = document.getElementById("page-filters");
const words = document.getElementById("page-words");

const selects = Object.entries(CHOICES).map(([title, key]) => {
  const counts = new Map();
  for (const row of data.rows) counts.set(row[key], (counts.get(row[key]) ?? 0) + 1);
  const values = [...counts.keys()].sort(BY_WORDS.compare);
  const options = values.map((value) => element("option", { value }, `${value} (${counts.get(value)})`));
  const select = element("select", { name: key }, element("option", { value: "" }, "all"), ...options);
  document.getElementById("page-choices").append(element("label", {}, `${title} `, select));
  return select;
});

let shown = data.rows;

function drawPlots() {
  tip.hide();
  const visit = (row) => table.visit(row);
  const scores = document.getElementById("page-scores");
  const scored = scoreSpecs(shown);
  const drawn = scored.flatMap((spec) => spec.points.map((point) => point.row));
  const methods = Object.keys(data.marks).filter((method) => drawn.some((row) => row.method === method));
  scores.querySelector(".legend").replaceChildren(...methods.map((method) => legendItem(data.marks[method], method)));
  fillPanels(scores.querySelector(".panels"), scored, tip, visit);
  const left = shown.length - drawn.length;
  scores.querySelector(".remark").textContent = left ? `${many(left, "run")} without a score or a count not drawn.` : "";
  const stages = document.getElementById("page-stages");
  const staged = stageSpecs(shown);
  stages.hidden = !staged.length;
  const legend = [legendItem(GENERALIZATION, "generalization"), legendItem(MEMORIZATION, "memorization")];
  stages.querySelector(".legend").replaceChildren(...legend);
  fillPanels(stages.querySelector(".panels"), staged, tip, visit);
}

function filter() {
  shown = wanted(data.rows, words.value, Object.fromEntries(selects.map((select) => [select.name, select.value])));
  const of = shown.length === data.rows.length ? "" : ` of ${data.rows.length.toLocaleString("en-US")}`;
  document.getElementById("page-count").textContent = `${shown.length.toLocaleString("en-US")}${of} ${
    data.rows.length === 1 ? "run" : "runs"
  }`;
  table.show(shown);
  drawPlots();
}

filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("page-all").addEventListener("click", () => {
  filters.reset();
  filter();
});
filter();

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawPlots();
});
