// Plots: one panel for each group of comparable runs, points that say what they are under the pointer and by keyboard.

const SIDES = { left: 48, right: 12, top: 22, bottom: 38 };
const REACH = 14; // Pixels from a point within which the pointer means it.

function polygon(corners, turn, radius) {
  const at = (i) => turn + (2 * Math.PI * i) / corners;
  const points = Array.from({ length: corners }, (_, i) => [Math.sin(at(i)) * radius, -Math.cos(at(i)) * radius]);
  return `M${points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join("L")}Z`;
}

function cross(turned) {
  const [a, b] = [1.7, 5];
  const plus = [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]];
  const c = Math.SQRT1_2;
  const points = turned ? plus.map(([x, y]) => [(x - y) * c, (x + y) * c]) : plus;
  return `M${points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join("L")}Z`;
}

// By the letters that the printed figures use.
const MARKERS = {
  o: "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
  s: polygon(4, Math.PI / 4, 5.6),
  "^": polygon(3, 0, 5.8),
  D: polygon(4, 0, 5.8),
  v: polygon(3, Math.PI, 5.8),
  P: cross(false),
  X: cross(true),
  "<": polygon(3, -Math.PI / 2, 5.8),
  ">": polygon(3, Math.PI / 2, 5.8),
  h: polygon(6, 0, 5.2),
  p: polygon(5, 0, 5.4),
};

// Black is ink: on a dark page it is the text's colour.
function ink(colour) {
  return colour === "#000000" ? "currentColor" : colour;
}

function markerShape([colour, marker]) {
  return shape("path", { d: MARKERS[marker], fill: ink(colour) });
}

function legendItem(marks, told) {
  const picture = shape("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true" });
  picture.append(markerShape(marks));
  return element("li", {}, picture, told);
}

class Tip {
  constructor(node) {
    this.node = node;
    addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    // Moving the focus can scroll the page; the tip goes with its point.
    addEventListener("scroll", () => this.node.hidden || this.place(), { passive: true, capture: true });
  }

  show(point, others) {
    this.anchor = point.node;
    const more = others ? [element("p", {}, `${many(others, "more run")} at this place`)] : [];
    this.node.replaceChildren(element("strong", {}, point.title), pairList(point.facts), ...more);
    this.node.hidden = false;
    this.place();
  }

  place() {
    const box = this.anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.node;
    const left = box.left + box.width / 2 - width / 2;
    const above = box.top - height - 8;
    this.node.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - width - 4))}px`;
    this.node.style.top = `${above < 4 ? box.bottom + 8 : above}px`;
  }

  hide() {
    this.node.hidden = true;
  }
}

function axes(drawing, across, up, size, spec) {
  const { width, height } = size;
  const floor = height - SIDES.bottom;
  const grid = shape("g", { class: "axis" });
  for (const { at, told } of up.ticks) {
    const y = up.place(at);
    grid.append(shape("line", { class: "grid", x1: SIDES.left, x2: width - SIDES.right, y1: y, y2: y }));
    grid.append(shape("text", { x: SIDES.left - 6, y: y + 4, "text-anchor": "end" }, told));
  }
  for (const { at, told } of across.ticks) {
    const x = across.place(at);
    grid.append(shape("line", { x1: x, x2: x, y1: floor, y2: floor + 4 }));
    grid.append(shape("text", { x, y: floor + 16, "text-anchor": "middle" }, told));
  }
  grid.append(shape("line", { x1: SIDES.left, x2: width - SIDES.right, y1: floor, y2: floor }));
  if (across.gap) {
    grid.append(shape("line", { class: "grid", x1: across.gap, x2: across.gap, y1: SIDES.top, y2: floor }));
  }
  grid.append(shape("text", { class: "name", x: 2, y: 12 }, spec.yName));
  const middle = (SIDES.left + width - SIDES.right) / 2;
  grid.append(shape("text", { class: "name", x: middle, y: height - 4, "text-anchor": "middle" }, spec.xName));
  drawing.append(grid);
}

// spec: title, mark, xName, yName, points [{x, y, marks, title, facts, row}], curves [{points, marks, dashed}].
function panel(spec, size, tip, visit) {
  const { width, height } = size;
  const across = logScale(spec.points.map((p) => p.x), SIDES.left, width - SIDES.right);
  const up = linearScale(spec.points.map((p) => p.y), height - SIDES.bottom, SIDES.top);
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": spec.title });
  axes(drawing, across, up, size, spec);
  const points = spec.points.map((p) => ({ ...p, px: across.place(p.x), py: up.place(p.y) }));
  for (const curve of spec.curves ?? []) {
    const path = curve.points.map((p) => `${across.place(p.x).toFixed(1)},${up.place(p.y).toFixed(1)}`).join("L");
    const dash = curve.dashed ? "5 3" : null;
    drawing.append(shape("path", { class: "curve", d: `M${path}`, stroke: ink(curve.marks[0]), "stroke-dasharray": dash }));
  }
  points.sort((a, b) => a.px - b.px || b.py - a.py);
  for (const point of points) {
    point.node = markerShape(point.marks);
    const told = [point.title, ...point.facts.map(([key, value]) => `${key} ${value}`)].join(", ");
    const place = `translate(${point.px.toFixed(1)},${point.py.toFixed(1)})`;
    filled(point.node, { class: "point", role: "img", tabindex: -1, "aria-label": told, transform: place }, []);
    drawing.append(point.node);
  }
  points[0].node.setAttribute("tabindex", 0);
  listen(drawing, points, tip, visit);
  const caption = element("figcaption", {}, spec.title);
  if (spec.mark) caption.append(" ", element("strong", { class: "mark" }, spec.mark));
  return element("figure", { class: "panel" }, caption, drawing);
}

function listen(drawing, points, tip, visit) {
  const distance = (point, x, y) => Math.hypot(point.px - x, point.py - y);
  const show = (point) => {
    const others = new Set(points.filter((p) => distance(p, point.px, point.py) < 1.5).map((p) => p.row));
    tip.show(point, others.size - 1);
  };
  const nearest = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    const best = points.reduce((a, b) => (distance(b, x, y) < distance(a, x, y) ? b : a));
    return distance(best, x, y) <= REACH ? best : null;
  };
  const hovered = (point) => {
    drawing.querySelector(".hovered")?.classList.remove("hovered");
    point?.node.classList.add("hovered");
    drawing.classList.toggle("pointing", Boolean(point));
    if (point) show(point);
    else tip.hide();
  };
  drawing.addEventListener("pointermove", (event) => hovered(nearest(event)));
  drawing.addEventListener("pointerleave", () => hovered(null));
  drawing.addEventListener("click", (event) => {
    const point = nearest(event);
    if (point) visit(point.row);
  });
  drawing.addEventListener("focusin", (event) => show(points.find((p) => p.node === event.target)));
  drawing.addEventListener("focusout", () => tip.hide());
  drawing.addEventListener("keydown", (event) => {
    const i = points.findIndex((p) => p.node === event.target);
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step && event.key !== "Enter") return;
    event.preventDefault(); // Or Enter would press the row's button too, on which the focus is by then.
    if (!step) {
      visit(points[i].row);
      return;
    }
    const next = points[(i + step + points.length) % points.length].node;
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
}

// Panels side by side, as many as fit; drawn at the size they are seen in, so that letters keep theirs.
function fillPanels(place, specs, tip, visit) {
  const room = place.clientWidth;
  const columns = Math.max(1, Math.min(specs.length, Math.floor(room / 340)));
  const width = Math.round(Math.min(columns === 1 ? 760 : 560, (room - 16 * (columns - 1)) / columns));
  const size = { width, height: Math.round(Math.max(210, Math.min(360, width * 0.6))) };
  place.style.setProperty("--columns", columns);
  place.style.setProperty("--width", `${width}px`);
  place.replaceChildren(...specs.map((spec) => panel(spec, size, tip, visit)));
}
