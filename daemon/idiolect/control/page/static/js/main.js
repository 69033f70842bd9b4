// The page: who is here, which view is shown, and what is true for all of them.

import { ask, follow, get, onStranger, remove, told } from "./api.js";
import { button } from "./ask.js";
import { h, own, say } from "./dom.js";
import { LANGUAGES, date, language, load, preferred, t } from "./text.js";

// Each has a module of its own, which is loaded when it is first wanted.
const VIEWS = ["now", "kept", "consent", "teach", "learnt", "copy"];
const view = (name) => import(`./${name}.js`);
const main = document.getElementById("main");
const part = (id) => document.getElementById(id);

// What every view gets: `session`, `there` (whether the device answers), `heard` (a set of functions called with each
// event), `again` (draw this view anew) and `renew` (ask who is here anew).
const app = { session: null, there: true, heard: new Set(), again, renew, enter, leave };
let unfollow = null;
let clean = null;
let turn = 0;

// A view's name: what follows the # in the address.
function wanted() {
  const name = location.hash.slice(1);
  return app.session ? (VIEWS.includes(name) ? name : "now") : "pair";
}

// With `focus` as after a step to another view; `to` says where the focus goes if what had it is drawn anew.
async function again({ focus = false, to = "h1" } = {}) {
  const mine = ++turn;
  const name = wanted();
  const root = h("div", { id: `view-${name}` });
  root.append(h("h1", { tabindex: -1 }, t(`${name}.title`)));
  let done = null;
  main.setAttribute("aria-busy", "true");
  try {
    done = await (await view(name)).show(root, app);
  } catch (error) {
    root.append(h("p.card.bad", { role: "alert" }, told(error)), button(t("again"), () => again({ focus: true })));
  }
  if (mine !== turn) return void (done && done()); // somebody went on meanwhile
  if (clean) clean();
  clean = done;
  const lost = main.contains(document.activeElement);
  main.replaceChildren(root);
  main.removeAttribute("aria-busy");
  document.title = [t(`${name}.title`), "Idiolect"].join(" – ");
  frame(name);
  if (focus || lost) (root.querySelector(to) || root.firstChild).focus();
  if (focus) scrollTo(0, 0);
}

function frame(name) {
  const person = app.session && app.session.person;
  part("who").replaceChildren(person ? own(person) : "");
  for (const id of ["nav", "footer"]) part(id).hidden = !person;
  if (!person) return;
  part("nav").setAttribute("aria-label", t("nav"));
  part("nav").replaceChildren(h("ul", {}, VIEWS.map((each) =>
    h("li", {}, h("a", { href: `#${each}`, "aria-current": each === name ? "page" : null }, t(`${each}.nav`))))));
  part("footer").replaceChildren(
    h("p", {}, t("paired", { name: person, date: date(app.session.expires) })),
    button(t("unpair"), () => remove("/v1/session"), { then: () => leave(t("unpaired")) }));
}

// The device tells a browser what its person said, and knows whose it is when the stream begins.
function enter(session) {
  const same = app.session && app.session.profile === session.profile;
  app.session = session;
  if (same) return;
  if (unfollow) unfollow();
  unfollow = follow(heard, (there) => {
    if (there !== app.there) say(t(there ? "there" : "gone"), there ? "good" : "bad");
    app.there = there;
  });
}

function leave(why = "", kind = "good") {
  if (!app.session) return;
  unfollow();
  app.session = unfollow = null;
  if (why) say(why, kind);
  again({ focus: true });
}

function heard(event) {
  if (event.kind === "lagged") return void again();
  for (const listener of app.heard) listener(event);
}

async function renew() {
  enter(await get("/v1/session"));
}

function languages() {
  const select = part("language");
  select.append(...Object.entries(LANGUAGES).map(([code, name]) => h("option", { value: code, lang: code, translate: "no" }, name)));
  select.value = language;
  select.addEventListener("change", () => load(select.value, true).then(() => again(), (e) => say(told(e), "bad")));
}

async function start() {
  onStranger(() => leave(t("expired"), "bad"));
  const session = ask("GET", "/v1/session").catch((error) => error);
  session.then((answer) => view(answer.person ? location.hash.slice(1) || "now" : "pair")).catch(() => {});
  await load(preferred());
  languages();
  const answer = await session;
  if (answer.person) enter(answer);
  else if (answer.status !== 401) say(told(answer), "bad");
  addEventListener("hashchange", () => {
    part("said").replaceChildren();
    again({ focus: true });
  });
  await again();
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the # in the address is the view's
  main.focus();
});
start();
