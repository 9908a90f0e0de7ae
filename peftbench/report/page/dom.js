// Elements made of attributes and text. Texts come from records, so they only ever become text nodes.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function pairList(pairs) {
  const items = pairs.map(([key, value]) => element("div", {}, element("dt", {}, key), element("dd", {}, value)));
  return element("dl", {}, ...items);
}

function many(count, word) {
  return `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;
}

function whole(value) {
  return value === null ? "" : value.toLocaleString("en-US");
}

function decimals(value, digits) {
  return value === null ? "" : value.toFixed(digits);
}

function scoreText(row) {
  return row.score === null ? "" : decimals(row.score, Math.abs(row.score) < 10 ? 4 : 2);
}
