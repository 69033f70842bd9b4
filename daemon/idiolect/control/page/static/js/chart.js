// Pictures of a few numbers, each with a table beside it that says the same.

import { h, own, svg, table } from "./dom.js";
import { percent, t } from "./text.js";

const [WIDE, HIGH, LEFT, RIGHT, TOP, LOW] = [640, 240, 56, 16, 16, 32];

function axis(most) {
  return [0, 0.5, 1].map((part) => {
    const y = TOP + (HIGH - TOP - LOW) * (1 - part);
    return [svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y, y2: y, class: "grid" }),
      svg("text", { x: LEFT - 8, y: y + 5, "text-anchor": "end" }, percent(most * part))];
  });
}

// `series`: {name, mark: "dot" | "box", values: [share or null]}; `labels`: one for each value.
export function lines(title, labels, series) {
  const top = Math.max(0.02, ...series.flatMap((s) => s.values.filter((v) => v !== null)));
  const most = Math.ceil(top * 20) / 20;
  const x = (i) => (labels.length < 2 ? (LEFT + WIDE - RIGHT) / 2 : LEFT + 12 + ((WIDE - LEFT - RIGHT - 24) * i) / (labels.length - 1));
  const y = (v) => TOP + (HIGH - TOP - LOW) * (1 - v / most);
  const mark = (s, v, i) => (s.mark === "dot"
    ? svg("circle", { cx: x(i), cy: y(v), r: 5 }) : svg("rect", { x: x(i) - 5, y: y(v) - 5, width: 10, height: 10 }));
  const drawn = series.map((s) => {
    const points = s.values.map((v, i) => [v, i]).filter(([v]) => v !== null);
    return svg("g", { class: s.mark },
      svg("polyline", { points: points.map(([v, i]) => `${x(i)},${y(v)}`).join(" ") }), points.map(([v, i]) => mark(s, v, i)));
  });
  const every = Math.ceil(labels.length / 8);
  const below = labels.map((label, i) => i % every === 0 && svg("text", { x: x(i), y: HIGH - 8, "text-anchor": "middle" }, label));
  const rows = labels.map((label, i) => [own(label), ...series.map((s) => (s.values[i] === null ? own("–") : own(percent(s.values[i]))))]);
  return h("figure", {},
    svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title, translate: "no" }, axis(most), below, drawn),
    h("figcaption", {}, series.map((s) => h(`span.key.${s.mark}`, {}, s.name))),
    h("details", {}, h("summary", {}, t("chart.table")), table(title, [t("chart.version"), ...series.map((s) => s.name)], rows)));
}

// Before and after, as two bars: {name, value: share, strong}.
export function bars(title, rows) {
  const most = Math.max(0.02, ...rows.map((r) => r.value));
  return h("dl.bars", { "aria-label": title }, rows.map((r) => {
    const bar = h("span.bar", { "aria-hidden": "true" });
    bar.style.width = `${(70 * r.value) / most}%`;
    return h(r.strong ? "div.strong" : "div", {}, h("dt", {}, r.name), h("dd", {}, bar, h("strong", { translate: "no" }, percent(r.value))));
  }));
}
