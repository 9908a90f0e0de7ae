// The table of runs: columns, sorting, filtering, details.

const COLUMNS = [
  { title: "Task", value: (row) => row.task },
  { title: "Method", value: (row) => row.label },
  { title: "Model", value: (row) => row.model },
  { title: "Seed", value: (row) => row.seed, number: true },
  { title: "Status", value: (row) => row.status.replaceAll("_", " ") },
  { title: "Split", value: (row) => row.split || null },
  { title: "Metric", value: (row) => row.metric || null, plain: true },
  { title: "Score", value: (row) => row.score, show: scoreText, number: true },
  { title: "Effective parameters", value: (row) => row.effective, show: (row) => whole(row.effective), number: true },
  { title: "Trained parameters", value: (row) => row.trained, show: (row) => whole(row.trained), number: true },
  {
    title: "Ranks before → after",
    value: (row) => row.after,
    show: (row) => (row.after === null ? "" : `${whole(row.before)} → ${whole(row.after)}`),
    number: true,
  },
  { title: "Seconds per epoch", value: (row) => row.epoch_s, show: (row) => decimals(row.epoch_s, 1), number: true },
  { title: "Peak memory, MB", value: (row) => row.rss, show: (row) => decimals(row.rss, 0), number: true },
  { title: "Peak CUDA memory, MB", value: (row) => row.cuda, show: (row) => decimals(row.cuda, 0), number: true },
  { title: "Flags", value: (row) => [row.mark, ...row.flags].filter(Boolean).join("; ") || null, wide: true },
];

const CHOICES = { Task: "task", Method: "method", Model: "model", Status: "status" };

const BY_WORDS = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// Numbers by size, words with the numbers in them by size; what is missing is last whichever way.
function compare(column, direction) {
  return (one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : BY_WORDS.compare(a, b);
    return direction * order;
  };
}

function searchText(row) {
  const cells = COLUMNS.map((column) => (column.show ? column.show(row) : column.value(row)));
  const settings = row.settings.map(([key, value]) => `${key}=${value}`);
  return [...cells, `seed=${row.seed}`, row.error, row.run, row.protocol, ...settings].join(" ").toLowerCase();
}

// Rows that hold every word and have every chosen value.
function wanted(rows, words, chosen) {
  const asked = words.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(
    (row) =>
      Object.entries(chosen).every(([key, value]) => !value || row[key] === value) &&
      asked.every((word) => row.searched.includes(word)),
  );
}

class RunTable {
  constructor(table, data) {
    this.data = data;
    this.body = table.tBodies[0];
    this.columns = COLUMNS.filter((column) => data.rows.some((row) => column.value(row) !== null));
    this.sorted = null;
    this.direction = 1;
    this.shown = data.rows;
    this.lines = new Map();
    this.details = new Map();
    this.headings = this.columns.map((column) => this.heading(column));
    table.tHead.append(element("tr", {}, ...this.headings, element("th", { scope: "col" }, "Record")));
    for (const row of data.rows) this.lines.set(row, this.line(row));
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.arrange();
    // Fewer rows must not make columns narrower under the reader's eyes.
    const widths = this.headings.map((heading) => heading.offsetWidth);
    this.headings.forEach((heading, i) => (heading.style.minWidth = `${widths[i]}px`));
  }

  heading(column) {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => this.sortBy(column));
    return element("th", { scope: "col", "aria-sort": "none", class: column.number ? "number" : null }, button);
  }

  line(row) {
    const cells = this.columns.map((column, i) => {
      const told = column.show ? column.show(row) : (column.value(row) ?? "");
      const kind = [column.number && "number", column.wide && "wide", column.plain && "plain"].filter(Boolean).join(" ");
      const cell = element("td", { class: kind || null });
      if (i === 0) {
        cell.append(element("button", { type: "button", class: "open", "aria-expanded": "false" }, told));
      } else if (column.title === "Status") {
        cell.append(element("span", { class: row.status === "completed" ? "good" : "bad" }, told));
      } else {
        cell.append(told);
      }
      return cell;
    });
    const link = element("a", { href: row.link }, "record");
    const line = element("tr", {}, ...cells, element("td", {}, link));
    line.row = row;
    return line;
  }

  clicked(event) {
    const line = event.target.closest("tr");
    if (!line?.row || event.target.closest("a") || String(getSelection())) return;
    this.toggle(line.row);
  }

  toggle(row, open = !this.details.has(row)) {
    const line = this.lines.get(row);
    line.querySelector(".open").setAttribute("aria-expanded", String(open));
    if (!open) {
      this.details.get(row)?.remove();
      this.details.delete(row);
    } else if (!this.details.has(row)) {
      this.details.set(row, this.detail(row));
      line.after(this.details.get(row));
    }
  }

  // Open a row and go there.
  visit(row) {
    this.toggle(row, true);
    const line = this.lines.get(row);
    line.scrollIntoView({ block: "center" });
    line.querySelector(".open").focus({ preventScroll: true });
  }

  detail(row) {
    const sections = [...row.details];
    if (row.settings.length) sections.push(["Settings", row.settings]);
    if (this.data.shared.length) sections.push(["Settings of every run", this.data.shared]);
    sections.push(["Environment", this.data.environments[row.environment]]);
    const cell = element("td", { colspan: this.columns.length + 1 });
    if (row.error) cell.append(element("p", { class: "error" }, row.error));
    for (const flag of row.flags) cell.append(element("p", { class: "flag" }, flag));
    const boxes = sections.map(([title, pairs]) => element("section", {}, element("h4", {}, title), pairList(pairs)));
    cell.append(element("div", { class: "boxes" }, ...boxes));
    return element("tr", { class: "detail" }, cell);
  }

  sortBy(column) {
    this.direction = this.sorted === column ? -this.direction : 1;
    this.sorted = column;
    const told = this.direction > 0 ? "ascending" : "descending";
    this.headings.forEach((heading, i) =>
      heading.setAttribute("aria-sort", this.columns[i] === column ? told : "none"),
    );
    this.arrange();
  }

  show(rows) {
    this.shown = rows;
    this.arrange();
  }

  arrange() {
    const rows = this.sorted ? this.shown.toSorted(compare(this.sorted, this.direction)) : this.shown;
    const lines = rows.flatMap((row) => [this.lines.get(row), this.details.get(row)].filter(Boolean));
    const none = element("tr", {}, element("td", { colspan: this.columns.length + 1 }, "No run fits the filters."));
    this.body.replaceChildren(...(lines.length ? lines : [none]));
  }
}
