// What is stored: everything, why, until when, and how to be rid of it.

import { get, post } from "./api.js";
import { button, sure } from "./ask.js";
import { card, choice, english, field, h, own, say, table } from "./dom.js";
import { day, reason, t, voice } from "./text.js";

const PURPOSE = { enrolment: "enrol", correction: "adapt_corrections", confirmation: "adapt_confirmations" };
const LONG = 100; // rows: more are drawn when somebody opens them
const open = new Set(); // phrases that were unfolded stay so while the page is there

function grouped(examples) {
  const groups = new Map();
  for (const example of examples) groups.set(example.phrase, [...(groups.get(example.phrase) || []), example]);
  return [...groups].sort(([a], [b]) => a.localeCompare(b));
}

function after(answer) {
  const made = answer.adapter ? t("kept.made", { number: answer.adapter }) : t("kept.base");
  return [t("kept.forgotten", { n: answer.forgotten }), " ", made];
}

function forgetting(app, what, label, name, question) {
  const work = async () => {
    if (question && !(await sure(t("kept.sure"), question, t("kept.forget")))) return;
    const answer = await post("/v1/forget", { profile: app.session.person, ...(typeof what === "function" ? what() : what) });
    await app.again({ to: "#examples h2" });
    say(after(answer));
  };
  return button(label, work, { name, kind: question ? "danger" : "" });
}

function example(each, app) {
  const facts = [
    t(`kept.source.${each.source}`, { date: day(each.day) }),
    each.heard && [t("kept.heard"), " ", own(each.heard)],
    t("kept.expires", { date: day(each.expires) }),
  ].filter(Boolean);
  return h("li", {},
    h("div", {}, h("p", {}, facts.flatMap((fact, i) => (i ? [" · ", fact] : [fact]))),
      !each.counts && h("p.note", {}, t("kept.doubted"), " ", reason(each.why))),
    forgetting(app, { example: each.id }, t("kept.forget"), t("kept.forget.name", { number: each.id, phrase: each.phrase })));
}

// Only where its owner agreed that phrases may be everybody's, and only for those that were taught.
function sharing(name, examples, review, app) {
  const on = review.shared.includes(name);
  if (!on && (!("household_phrases" in review.purposes) || !examples.some((e) => e.source === "enrolment"))) return [];
  const key = on ? "kept.unshare" : "kept.share";
  const work = async () => {
    await post("/v1/share", { profile: app.session.person, phrase: name, shared: !on });
    await app.again({ to: "#examples h2" });
    say(t(`${key}.done`));
  };
  return [on && h("p.note", {}, t("kept.shared")), button(t(key), work, { name: t(`${key}.name`, { phrase: name }) })];
}

function phrase(name, examples, review, app) {
  const list = h("ul.rows", {});
  const box = h("details", {}, h("summary", {}, own(name), " ", h("span.quiet", {}, t("kept.count", { n: examples.length }))),
    list, sharing(name, examples, review, app), forgetting(app, { phrase: name }, t("kept.forget.phrase"), t("kept.forget.phrase.name", { phrase: name }),
      t("kept.sure.phrase", { n: examples.length, phrase: name })));
  const draw = () => list.children.length || list.append(...examples.map((each) => example(each, app)));
  if (examples.length <= LONG || open.has(name)) draw();
  box.open = open.has(name);
  box.addEventListener("toggle", () => {
    draw();
    open[box.open ? "add" : "delete"](name);
  });
  return box;
}

function why(review) {
  const counts = {};
  for (const each of review.examples) counts[PURPOSE[each.source]] = (counts[PURPOSE[each.source]] || 0) + 1;
  counts.usage = review.usage.length;
  return card(t("kept.why"), h("p", {}, t("kept.name")),
    h("ul.rows", {}, Object.entries(review.purposes).map(([purpose, given]) => h("li", {}, h("div", {},
      h("h3", {}, t(`purpose.${purpose}`)),
      h("p", {}, t(`purpose.${purpose}.what`), " ", t(`purpose.${purpose}.example`)),
      h("p.quiet", {}, t(`consent.how.${given.how}`, { date: day(given.since) }), " ", t("kept.days", { n: given.retention_days }),
        " ", purpose in counts && t("kept.now", { n: counts[purpose] })),
      purpose === "voice_match" && review.voice && h("p", {}, voice(review.voice)))))),
    h("p", {}, h("a", { href: "#consent" }, t("kept.change"))));
}

function examples(review, app) {
  const days = [...new Set(review.examples.map((e) => e.day))].sort().reverse();
  const chosen = choice(days.map((each) => [each, day(each), { translate: "no" }]));
  const one = forgetting(app, () => ({ day: chosen.value }), t("kept.forget.day"), null, t("kept.sure.day"));
  const shown = card(t("kept.examples"), h("p", {}, t("kept.numbers")),
    !days.length && h("p.quiet", {}, t("kept.none")),
    grouped(review.examples).map(([name, list]) => phrase(name, list, review, app)),
    days.length > 0 && h("div.row", {}, field(t("kept.day"), chosen), one),
    (days.length > 0 || review.usage.length > 0) && h("div.row", {},
      forgetting(app, { all: true }, t("kept.forget.all"), null, t("kept.sure.all"))));
  shown.id = "examples";
  return shown;
}

function usage(review) {
  if (!review.usage.length) return "";
  const rows = [...review.usage].reverse().map(({ day: when, said, expires }) =>
    [h("time", {}, day(when)), own(Object.entries(said).map(([name, n]) => `${name} ${n}×`).join(", ")), h("time", {}, day(expires))]);
  return card(t("purpose.usage"), table(t("purpose.usage"), [t("kept.when"), t("kept.said"), t("kept.until")], rows));
}

function upkeep(review) {
  const { last_round: round, last_heard: seen, last_tested: tested, retired } = review.upkeep;
  const dated = Object.entries({ round, seen, tested }).filter(([, when]) => when);
  return card(t("kept.besides"), h("p", {}, t("kept.adapters", { n: review.adapters.length })),
    h("ul", {}, dated.map(([what, when]) => h("li", {}, t(`kept.${what}`, { date: day(when) })))),
    retired && h("p.note", {}, t("kept.retired", { date: day(retired.slice(0, 10)) }), " ", reason(retired.slice(12))));
}

export async function show(root, app) {
  if (!app.session.profile) {
    root.append(h("p", {}, t("kept.nothing")), h("p", {}, t("kept.ram")), h("p", {}, h("a", { href: "#consent" }, t("kept.begin"))));
    return;
  }
  const who = { profile: app.session.person };
  const [review, told] = await Promise.all([get("/v1/review", who), get("/v1/explain", who)]);
  root.append(h("p", {}, t("kept.text")), why(review), examples(review, app), usage(review), upkeep(review),
    card(t("kept.words"), h("details", {}, h("summary", {}, t("kept.words.open")),
      told.text.map((line) => h("p", {}, english(line))))),
    h("p.quiet", {}, t("kept.ram")));
}
