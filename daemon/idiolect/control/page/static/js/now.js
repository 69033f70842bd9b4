// Now: does it listen, does it learn, to whom does the sound go, and what did it hear?

import { get, post } from "./api.js";
import { button } from "./ask.js";
import { card, choice, english, h, say } from "./dom.js";
import { heard } from "./heard.js";
import { moment, t } from "./text.js";

const PAUSES = [1800, 3600, 7200, 86400]; // seconds
const REST = 15000; // ms between two looks at what no event tells

// What the status means to a person: [kind, words].
function listening(status) {
  const { state, paused_until: until } = status.listening;
  if (state === "paused") return ["off", until ? t("now.paused.until", { when: moment(until) }) : t("now.paused")];
  const health = status.microphone;
  if (health.state !== "running") return ["bad", [t("now.deaf"), " ", english([health.reason, health.fix].filter(Boolean).join("; "))]];
  return ["on", t(`now.${state}`)];
}

// Rounds and tests that wait for a quiet moment; housekeeping concerns nobody.
const owed = ({ learning: { due = {} } }) => (due.rebuild || 0) + (due.selftest || 0);

function learning(status) {
  const { state, paused_until: until, detail } = status.personalization;
  if (state === "off") return ["bad", [t("now.learn.off"), " ", english(detail)]];
  if (state === "paused") return ["off", until ? t("now.learn.paused.until", { when: moment(until) }) : t("now.learn.paused")];
  const due = owed(status);
  if (status.learning.state === "running") return ["on", t("now.learn.running")];
  if (!due) return ["on", t("now.learn.nothing")];
  const waits = status.learning.obstacles.map((name) => t(`waits.${name}`)).join(", ");
  return ["on", [t("now.learn.due", { n: due }), " ", waits && t("now.learn.waits", { waits })]];
}

// A state, and what pauses or resumes it.
function switchable(name, [kind, words], paused, path, draw) {
  const press = async (active, seconds) => {
    await post(path, seconds ? { active, for_s: Number(seconds) } : { active });
    await draw();
    say(t(`now.${name}.${active ? "resumed" : "halted"}`));
  };
  const length = choice([["", t("now.for.ever")], ...PAUSES.map((s) => [s, t(`now.for.${s}`)])], { "aria-label": t("now.for") });
  const act = paused
    ? button(t(`now.${name}.resume`), () => press(true), { kind: "main" })
    : button(t(`now.${name}.pause`), () => press(false, length.value));
  act.id = `do-${name}`;
  return [h(`p.state.${kind}`, {}, words), h("div.row", {}, !paused && length, act)];
}

function speaker(status, app, draw) {
  const active = status.personalization.profile || "guest";
  const mine = app.session.profile && active === app.session.profile;
  const key = mine ? "me" : active === "guest" ? "nobody" : "other";
  const choose = async (profile) => {
    await post("/v1/profile", { profile });
    await draw();
  };
  const act = mine
    ? button(t("now.speaker.leave"), () => choose("guest"))
    : button(t("now.speaker.take"), () => choose(app.session.person));
  act.id = "do-speaker";
  return card(t("now.speaker"), h("p", {}, t(`now.speaker.${key}`)),
    app.session.profile ? h("div.row", {}, act) : h("p.quiet", {}, t("now.speaker.agree")));
}

function notes(status) {
  const { handoff, playback } = status;
  const given = handoff && handoff.user;
  return [
    given && h("p.note", {}, t(handoff.connected ? "now.handoff" : "now.handoff.idle", { user: given })),
    playback && playback.active && h("p.note", {}, t("now.playback")),
  ].filter(Boolean);
}

function hurry(draw) {
  const act = button(t("now.learn.now"), () => post("/v1/learn"), { then: () => draw().then(() => say(t("now.learn.asked"))) });
  act.id = "do-hurry";
  return h("div.row", {}, act);
}

export async function show(root, app) {
  const states = h("div", {});
  const list = heard(app);
  const draw = async () => {
    const status = await get("/v1/status");
    const learner = learning(status);
    const focused = states.contains(document.activeElement) && document.activeElement.id;
    states.replaceChildren(...notes(status),
      h("div.pair", {},
        card(t("now.listen"), switchable("listen", listening(status), status.listening.state === "paused", "/v1/listening", draw)),
        card(t("now.learn"), switchable("learn", learner, status.personalization.state === "paused", "/v1/learning", draw),
          status.learning.state === "waiting" && owed(status) > 0 && !status.learning.asked
            && hurry(draw))),
      speaker(status, app, draw));
    if (focused) document.getElementById(focused)?.focus(); // where it was, though drawn anew
  };
  const busy = () => states.contains(document.activeElement) && document.activeElement.matches("select"); // it may be open
  const look = () => busy() || draw().catch(() => {});
  const listener = (event) => event.kind === "state" && !event.enrolment && look();
  await Promise.all([draw(), list.fill()]);
  root.append(states, list.node);
  app.heard.add(listener);
  const timer = setInterval(look, REST);
  return () => {
    clearInterval(timer);
    app.heard.delete(listener);
    list.end();
  };
}
