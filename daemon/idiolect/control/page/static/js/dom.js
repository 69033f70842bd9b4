// Elements from code and never from strings of HTML: the page's policy forbids those, and so nothing needs escaping.

const SVG = "http://www.w3.org/2000/svg";

// h("p.quiet.small", {title: "..", click: fn}, "text", node, [more]): functions listen, true is an empty attribute,
// and what is false, null, undefined or "" is left out.
export function h(what, given = {}, ...children) {
  const [name, ...classes] = what.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  return fill(node, given, children);
}

export function svg(name, given = {}, ...children) {
  return fill(document.createElementNS(SVG, name), given, children);
}

function fill(node, given, children) {
  for (const [key, value] of Object.entries(given)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (key === "value") node.value = value;
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child || child === 0));
  return node;
}

// What somebody said or is called: no translator's business.
export const own = (text) => h("span", { translate: "no" }, text);

// The daemon's own words, which are English.
export const english = (text) => h("span", { lang: "en" }, text);

let fresh = 0;

// A label and its control, with a hint that belongs to both.
export function field(label, control, hint) {
  const id = control.id || `f${++fresh}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}h`);
  return h("div.field", {}, h("label", { for: id }, label), control, hint && h("p.hint", { id: `${id}h` }, hint));
}

export function choice(pairs, given = {}) {
  return h("select", given, pairs.map(([value, label, more]) => h("option", { value, ...more }, label)));
}

// A card of the page: a section named by its heading.
export function card(title, ...children) {
  const id = `s${++fresh}`;
  return h("section.card", { "aria-labelledby": id }, h("h2", { id, tabindex: -1 }, title), ...children);
}

// A table that can be scrolled sideways, with the keyboard too; rows of cells, the first of each its heading.
export function table(caption, heads, rows) {
  const cells = (row) => row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell)));
  return h("div.scroll", { tabindex: 0, role: "group", "aria-label": caption },
    h("table", {}, h("caption.hidden", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, cells(row))))));
}

// Tell everybody, screen readers too; it stays until there is something else to tell.
let fading = 0;
export function say(text, kind = "good") {
  const region = document.getElementById("said");
  clearTimeout(fading);
  region.replaceChildren(h(`p.${kind}`, {}, text));
  if (kind === "good") fading = setTimeout(() => region.replaceChildren(), 12000);
}
