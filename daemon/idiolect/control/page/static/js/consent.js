// Consent: each purpose alone, agreed to aloud or by its owner, and taken back with one press.

import { get, post } from "./api.js";
import { attempt, dialog, sure } from "./ask.js";
import { h, say } from "./dom.js";
import { date, language, quoted, t, voice } from "./text.js";

const DAYS = { enrol: 365, adapt_corrections: 365, adapt_confirmations: 90, usage: 90, voice_match: 365, household_phrases: 365, contribute: 30 };
const LOOK = 1000; // ms
let open = false; // a question that waits for a spoken yes: with two, a yes would count for none

async function person(app) {
  const { people, household } = await get("/v1/consent");
  const found = people.find((p) => p.profile === app.session.profile || p.name === app.session.person);
  return { purposes: {}, ...found, household };
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Until the question is closed, answered or not; whether it was answered with yes.
async function spoken(asked, purpose, app, count) {
  const ends = Date.now() + asked.expires_s * 1000;
  for (;;) {
    count(Math.max(0, Math.round((ends - Date.now()) / 1000)));
    if ((await get("/v1/consent/wait", { token: asked.token })).state === "closed") break;
    await wait(LOOK);
  }
  await app.renew();
  return purpose in (await person(app)).purposes;
}

// The notice, word for word as the device's record of the consent has it.
function notice(text) {
  const [first, ...rest] = text.split("\n");
  const items = rest.filter((line) => line.startsWith("- ")).map((line) => h("li", {}, line.slice(2)));
  return h("blockquote", { translate: "no", lang: language }, h("p", {}, first), h("ul", {}, items), h("p", {}, rest.at(-1)));
}

// Both return what to tell, null where somebody thought better of it.
async function agree(purpose, app) {
  if (open) return [t("consent.open"), "bad"];
  const asked = await post("/v1/consent", { name: app.session.person, purposes: [purpose], language });
  const paired = asked.how === "paired";
  const left = h("p.count", { "aria-hidden": "true" });
  const yes = h("button.main", { type: "button", autofocus: true }, t("consent.yes"));
  const no = h("button", { type: "button", autofocus: !paired }, t(paired ? "consent.no" : "close"));
  const asking = dialog(t("consent.ask"),
    [notice(asked.notice), paired ? h("p", {}, t("consent.paired")) : [h("p.say", { role: "status" }, t("consent.say")), left, h("p.quiet", {}, t("consent.say.hint"))]],
    paired ? [no, yes] : [no], { wide: true });
  no.addEventListener("click", () => asking.box.close(""));
  yes.addEventListener("click", () => attempt(yes, () => post("/v1/consent/agree", { token: asked.token }), () => asking.box.close("yes")));
  let given;
  if (paired) {
    given = (await asking.closed) === "yes";
    await app.renew();
  } else {
    // Closing the window closes no question: a yes within its time still counts, and is told.
    open = true;
    try {
      given = await spoken(asked, purpose, app, (s) => (left.textContent = t("consent.left", { n: s })));
    } finally {
      open = false;
      asking.box.close("");
    }
    if (!given) return [t("consent.unheard"), "bad"];
  }
  return given && [t("consent.given", { purpose: t(`purpose.${purpose}`) })];
}

async function withdraw(purpose, app) {
  const what = t(`purpose.${purpose}`);
  if (!(await sure(t("consent.withdraw", { purpose: what }), t("consent.withdraw.text"), t("consent.withdraw.go")))) return null;
  const answer = await post("/v1/consent/withdraw", { profile: app.session.person, purpose });
  return [t("consent.withdrawn", { n: answer.deleted })];
}

function row(purpose, receipt, lack, app, draw) {
  const id = `p-${purpose}`;
  const on = Boolean(receipt);
  const toggle = h("button.switch", {
    type: "button", role: "switch", "aria-checked": String(on), "aria-labelledby": id, "aria-describedby": `${id}-d`, id: `${id}-s`,
  });
  toggle.addEventListener("click", () => attempt(toggle, async () => {
    const came = await (on ? withdraw : agree)(purpose, app);
    if (!came) return; // nothing did
    await draw();
    document.getElementById(`${id}-s`)?.focus();
    say(...came);
  }));
  return h("li", {},
    h("div", {}, h("h2", { id }, t(`purpose.${purpose}`)),
      h("div", { id: `${id}-d` }, h("p", {}, t(`purpose.${purpose}.what`), " ", t(`purpose.${purpose}.example`)),
        h("p.quiet", {}, t("kept.days", { n: DAYS[purpose] }), " ", on && t(`consent.how.${receipt.how}`, { date: date(receipt.since) })), lack && h("p", {}, voice(lack)))),
    toggle);
}

export async function show(root, app) {
  const list = h("ul.card.rows", {});
  const everybody = h("p", {});
  const draw = async () => {
    const { purposes, voice: lack, household } = await person(app);
    everybody.textContent = household.length ? t("consent.household", { phrases: quoted(household) }) : "";
    list.replaceChildren(...Object.keys(DAYS).map((purpose) => row(purpose, purposes[purpose], purpose === "voice_match" && lack, app, draw)));
  };
  await draw();
  root.append(h("p", {}, t("consent.text")), list, everybody, h("p.quiet", {}, t("consent.free")));
}
