// What was learnt, whether it helps, and the way back.

import { get, post } from "./api.js";
import { button } from "./ask.js";
import { bars, lines } from "./chart.js";
import { card, h, say } from "./dom.js";
import { day, number as figure, percent, t } from "./text.js";

const IN_USE = ["canary", "active"];

function before(report) {
  const { figures, state } = report;
  if (!report.adapter) return card(t("learnt.before"), h("p.quiet", {}, t("learnt.nothing")));
  return card(t("learnt.before"),
    h("p", {}, t("learnt.used", { number: report.adapter, state: t(`state.${state}`), n: figures.examples })),
    figures.held_out
      ? [h("p", {}, t("learnt.wrong", { n: figures.held_out })),
        bars(t("learnt.before"), [{ name: t("learnt.with"), value: figures.error_after, strong: true }])]
      : h("p.quiet", {}, t("learnt.few")),
    figures.known && [h("p", {}, t("learnt.known", { n: figures.known })),
      bars(t("learnt.before"), [{ name: t("learnt.without"), value: figures.error_before }, { name: t("learnt.with"), value: figures.error_known, strong: true }])],
    h("p", {}, t("learnt.others", { lost: figures.others_lost, won: figures.others_gained })),
    h("p", {}, t("learnt.uses", { n: figures.uses, corrections: figures.corrections })));
}

function lately(report) {
  const { health = {}, selftest = {} } = report;
  if (!health.uses && !selftest.day) return "";
  return card(t("learnt.lately"),
    health.uses && h("p", {}, t("learnt.health", { n: figure(health.uses), won: percent(health.won), lost: percent(health.lost), corrected: percent(health.corrected) })),
    selftest.day && h("p", {}, t(selftest.worse ? "learnt.tested.worse" : "learnt.tested", { date: day(selftest.day), worse: selftest.worse })));
}

function curve(versions) {
  const share = (wrong, all) => (all ? wrong / all : null);
  const measured = versions.filter((v) => v.held_out);
  if (!measured.length) return "";
  return card(t("learnt.curve"), h("p", {}, t("learnt.curve.text")),
    lines(t("learnt.curve"), measured.map((v) => String(v.adapter)), [
      { name: t("learnt.without"), mark: "box", values: measured.map((v) => share(v.wrong_before, v.known)) },
      { name: t("learnt.with"), mark: "dot", values: measured.map((v) => share(v.wrong, v.held_out)) },
    ]));
}

function version(each) {
  const used = IN_USE.includes(each.state) && !each.set_aside;
  return h("li", { "aria-current": used ? "true" : null }, h("div", {},
    h("h3", {}, t("learnt.version", { number: each.adapter }), " ", h(used ? "span.tag.used" : "span.tag", {}, t(each.set_aside ? "state.set-aside" : `state.${each.state}`))),
    h("p.quiet", {}, t("learnt.made", { date: day(each.day), n: each.examples }), " ",
      each.held_out ? t("learnt.held", { n: each.held_out, wrong: each.wrong, before: each.wrong_before, known: each.known }) : "", " ",
      t("learnt.uses", { n: each.uses, corrections: each.corrections })),
    h("p", {}, t(each.set_aside ? "state.set-aside.what" : `state.${each.state}.what`))));
}

function history(versions, app) {
  const used = versions.some((v) => IN_USE.includes(v.state) && !v.set_aside);
  const back = async () => {
    const answer = await post("/v1/rollback", { profile: app.session.person });
    const [number] = /\d+/.exec(answer.in_use) || []; // "version 3", or "the base model"
    await app.again({ to: "#history h2" });
    say(number ? t("learnt.back", { number }) : t("learnt.back.base"));
  };
  const shown = card(t("learnt.history"),
    !versions.length && h("p.quiet", {}, t("learnt.none")),
    used && h("div.row", {}, button(t("learnt.rollback"), back), h("p.quiet", {}, t("learnt.rollback.text"))),
    h("ol.rows", { reversed: true }, [...versions].reverse().map(version)));
  shown.id = "history";
  return shown;
}

export async function show(root, app) {
  if (!app.session.profile) {
    root.append(h("p", {}, t("learnt.nobody")), h("p", {}, h("a", { href: "#consent" }, t("kept.begin"))));
    return;
  }
  const who = { profile: app.session.person };
  const [report, { versions }] = await Promise.all([get("/v1/report", who), get("/v1/history", who)]);
  root.append(h("p", {}, t("learnt.text")), before(report), curve(versions), lately(report), history(versions, app),
    card(t("learnt.limits"), h("ul", {}, [1, 2, 3].map((n) => h("li", {}, t(`learnt.limit.${n}`))))));
}
