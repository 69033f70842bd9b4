// What was heard, as it happens, and what was meant.

import { get, post } from "./api.js";
import { attempt, button } from "./ask.js";
import { card, choice, field, h, own, say } from "./dom.js";
import { clock, percent, reason, t } from "./text.js";

const SHOWN = 30;
const RECENT = 64;
const settled = new Map(); // by id, what came of those that were corrected or confirmed here
const CORRECTABLE = 600; // seconds that the device remembers how it sounded

// Phrases that may have been meant: the model's, and those that this person taught.
async function phrases(app) {
  const status = await get("/v1/status");
  const kept = app.session.profile ? (await get("/v1/review", { profile: app.session.person })).examples : [];
  const taught = kept.filter((e) => e.source === "enrolment").map((e) => e.phrase);
  return [...new Set([...taught, ...status.bundle.phrases])].sort((a, b) => a.localeCompare(b));
}

function outcome(answer) {
  if (answer.rolled_back) return t("heard.back");
  return answer.counts ? t("heard.counts") : [t("heard.doubted"), " ", reason(answer.why || "")];
}

function row(event, app) {
  const actions = h("div.row", {});
  const item = h("li", { id: `e-${event.id}`, tabindex: -1 },
    h("time", {}, clock(event.time)),
    h("div", {},
      h("p", {}, event.phrase ? h("strong", { translate: "no" }, event.phrase) : t("heard.rejected"),
        " ", h("span.quiet", {}, t(`heard.kind.${event.kind}`, { sure: percent(event.score, 0) }))),
      actions));
  const end = (text) => {
    settled.set(event.id, text);
    actions.replaceChildren(h("p.quiet", {}, text));
    item.focus();
  };
  const mine = event.profile === app.session.profile && app.session.profile;
  const young = Date.now() / 1000 - event.time < CORRECTABLE;
  if (settled.has(event.id)) actions.append(h("p.quiet", {}, settled.get(event.id)));
  else if (event.profile === "guest") actions.append(h("p.quiet", {}, t("heard.guest")));
  else if (mine && young && event.kind !== "wake") offer(event, actions, end, app);
  return item;
}

function offer(event, actions, end, app) {
  const about = event.phrase || t("heard.rejected");
  const right = () => post("/v1/confirm", { event: event.id }).then((answer) => end(outcome(answer)));
  const other = button(t("heard.other"), async () => {
    const others = (await phrases(app)).filter((p) => p !== event.phrase);
    const meant = choice([["", t("heard.choose")], ...others.map((p) => [p, p, { translate: "no" }])]);
    const send = async () => meant.value ? await correct() : meant.focus();
    const correct = () => post("/v1/correct", { event: event.id, phrase: meant.value }).then((answer) => {
      say(t("heard.thanks"));
      end(outcome(answer));
    });
    const form = h("form.row", { submit: (e) => e.preventDefault() }, field(t("heard.meant"), meant), h("button.main", { type: "submit" }, t("heard.send")));
    form.addEventListener("submit", () => attempt(form.querySelector("[type=submit]"), send));
    actions.replaceChildren(form);
    meant.focus();
  }, { name: t("heard.other.name", { phrase: about }) });
  actions.append(event.phrase && button(t("heard.right"), right, { name: t("heard.right.name", { phrase: about }) }) || "", other);
}

export function heard(app) {
  const list = h("ul.events", {});
  const none = h("p.quiet", {}, t("heard.none"));
  const last = h("p.hidden", { role: "status" });
  const node = card(t("heard"), h("p.quiet", {}, t("heard.text")), none, last, list);
  const seen = new Set();
  const add = (event) => {
    if (event.kind === "state" || seen.has(event.id)) return;
    seen.add(event.id);
    none.hidden = true;
    list.prepend(row(event, app));
    while (list.children.length > SHOWN) list.lastChild.remove();
  };
  const listener = (event) => {
    add(event);
    if (event.kind !== "state") last.textContent = event.phrase ? t("heard.last", { phrase: event.phrase }) : t("heard.rejected");
  };
  const fill = async () => {
    (await get("/v1/events/recent", { limit: RECENT })).events.forEach(add);
    app.heard.add(listener);
  };
  return { node, fill, end: () => app.heard.delete(listener) };
}
