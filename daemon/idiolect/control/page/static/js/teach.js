// Teaching a phrase: the device listens, judges each take and says why it wants another.

import { get, post, remove } from "./api.js";
import { button, form, submit } from "./ask.js";
import { card, choice, field, h, own, say } from "./dom.js";
import { language, reason, t } from "./text.js";

const LOOK = 200; // ms: five times a second, and only while somebody teaches
const FAINT = -60; // dBFS: the meter's left end; the right one is 0
const ENDED = ["done", "failed", "cancelled"];

function meter() {
  const bar = h("div.bar", {});
  const node = h("div.meter", { role: "meter", "aria-label": t("teach.level"), "aria-valuemin": FAINT, "aria-valuemax": 0, "aria-valuenow": FAINT }, bar);
  const set = (dbfs) => {
    const level = Math.min(0, Math.max(FAINT, dbfs));
    bar.style.width = `${(100 * (level - FAINT)) / -FAINT}%`;
    bar.classList.toggle("loud", level > -3);
    node.setAttribute("aria-valuenow", Math.round(level));
    node.setAttribute("aria-valuetext", t("teach.dbfs", { n: Math.round(level) }));
  };
  return { node, set };
}

function words(state) {
  const { taken, wanted } = state;
  if (state.state === "refused") return [t("teach.refused"), " ", reason(state.reason)];
  if (state.state === "failed") return [t("teach.failed"), " ", reason(state.reason)];
  if (state.state === "done") return state.reason ? [t("teach.unused"), " ", reason(state.reason)] : t("teach.done");
  return t(`teach.${state.state}`, { taken, wanted, next: Math.min(taken + 1, wanted) });
}

function advised(each) {
  const values = { phrase: each.phrase || t(each.base ? "teach.base" : "teach.somebody") };
  return h("p.advice", {}, t(`teach.advice.${each.kind}`, values));
}

function lesson(begun, phrase, app) {
  const level = meter();
  const live = h("p.say", { role: "status", tabindex: -1 });
  const dots = h("p.dots", { "aria-hidden": "true" });
  const count = h("p", {});
  const stop = button(t("teach.cancel"), () => remove("/v1/enrol"));
  const taken = h("div.row", {});
  const advice = h("div", { role: "status" });
  const costs = h("p", { role: "status" });
  const keep = button(t("teach.keep"), async () => {
    const kept = await post("/v1/enrol/keep", { id: begun.id });
    draw(kept);
    costs.textContent = reason(kept.costs);
  });
  const more = button(t("teach.more"), () => app.again({ focus: true }), { kind: "main" });
  const node = card(t("teach.now"), phrase && h("p.phrase", {}, own(phrase)), live, level.node, dots, count, taken, advice, costs, h("div.row", {}, keep, stop));
  let told = "";
  let listed = "";
  let hints = "";
  const back = (n) => button(t("teach.back", { number: n }), async () => draw(await post("/v1/enrol/take-back", { take: n, id: begun.id })));
  const draw = (state) => {
    const said = `${state.state} ${state.attempts} ${state.reason}`;
    if (said !== told) live.replaceChildren(...[words(state)].flat());
    told = said;
    live.className = `say ${state.state}`;
    dots.replaceChildren(...Array.from({ length: state.wanted }, (_, i) => h(i < state.taken ? "span.full" : "span", {})));
    count.textContent = t("teach.count", { n: state.taken, wanted: state.wanted });
    const ended = ENDED.includes(state.state) || state.state === "training";
    const numbers = ended ? [] : state.takes;
    if (String(numbers) !== listed) taken.replaceChildren(...numbers.map(back));
    listed = String(numbers);
    const advising = JSON.stringify(state.advice);
    if (advising !== hints) advice.replaceChildren(...state.advice.map(advised));
    hints = advising;
    keep.hidden = ended || !state.keepable;
    if ("level_dbfs" in state) level.set(state.level_dbfs);
    if (!ENDED.includes(state.state)) return;
    const focused = document.activeElement === stop;
    stop.replaceWith(more);
    level.node.remove();
    if (focused) more.focus();
  };
  draw(begun);
  return { node, draw, live };
}

export async function show(root, app) {
  let timer = 0;
  let left = false;
  const place = h("div", {});
  const run = (begun, phrase) => {
    const shown = lesson(begun, phrase, app);
    place.replaceChildren(shown.node);
    const look = async () => {
      if (left) return;
      try {
        const state = await get("/v1/enrol");
        shown.draw(state);
        if (ENDED.includes(state.state)) return;
      } catch (error) {
        if (error.status === 401) return; // until the device is there again
      }
      timer = setTimeout(look, LOOK);
    };
    look();
    return shown;
  };
  const phrase = h("input", { name: "phrase", maxlength: 64, autocomplete: "off", required: true, translate: "no" });
  const samples = choice([2, 3, 5, 10].map((n) => [n, t("teach.times", { n }), { selected: n === 3 }]));
  const aloud = h("input", { type: "checkbox", id: "aloud" });
  const start = async () => {
    if (!phrase.value.trim()) {
      say(t("teach.which"), "bad");
      return phrase.focus();
    }
    const wish = { profile: app.session.person, phrase: phrase.value, samples: Number(samples.value), speak: aloud.checked ? language : "" };
    const shown = run(await post("/v1/enrol", wish), phrase.value.trim());
    return shown.live.focus();
  };
  const begin = card(t("teach.which"), form(start,
    field(t("teach.phrase"), phrase, t("teach.hint")), field(t("teach.often"), samples),
    h("div.check", {}, aloud, h("label", { for: "aloud" }, t("teach.aloud"))), submit(t("teach.go"))));
  const open = await get("/v1/enrol").catch(() => null); // somebody went away in the middle
  const { people } = await get("/v1/consent");
  root.append(h("p", {}, t("teach.text")), place);
  if (open && !ENDED.includes(open.state)) run(open, "");
  else if (people.some((person) => "enrol" in person.purposes)) place.append(begin);
  else place.append(h("p", {}, t("teach.agree")), h("p", {}, h("a", { href: "#consent" }, t("kept.begin"))));
  return () => {
    left = true;
    clearTimeout(timer);
  };
}
