// Dialogs and buttons: what a person decides.

import { told } from "./api.js";
import { field, h, own, say } from "./dom.js";
import { t } from "./text.js";

let shown = 0;

// A modal dialog; the browser gives the focus back to where it was. `body` and `actions` are nodes; closes with a value.
export function dialog(title, body, actions, { wide = false } = {}) {
  const id = `d${++shown}`;
  const box = h(wide ? "dialog.wide" : "dialog", { "aria-labelledby": id },
    h("h2", { id, tabindex: -1 }, title), h("div", {}, body), h("div.actions", {}, actions));
  document.body.append(box);
  const closed = new Promise((resolve) => {
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue);
    });
  });
  box.showModal();
  return { box, closed };
}

// What spellings of one name have in common, as the device compares them.
const key = (name) => name.replace(/\p{Default_Ignorable_Code_Point}/gu, "").normalize("NFKC").toLowerCase()
  .replace(/[\u2018\u2019\u02bb\u02bc]/g, "'").replace(/[\u2010-\u2013]/g, "-").trim().replace(/\s+/g, " ");

// Whether somebody really wants it. With `typed` that has to be typed first.
export async function sure(title, body, action, { danger = true, typed = "" } = {}) {
  const go = h(danger ? "button.danger" : "button.main", { type: "button" }, action);
  const keep = h("button", { type: "button", autofocus: !typed }, t("cancel"));
  const input = typed && h("input", { autocomplete: "off", autocapitalize: "off", spellcheck: "false", autofocus: true });
  const wrong = h("p.hint.bad", { role: "alert" });
  const asked = dialog(title,
    [h("p", {}, body), input && field([t("typed"), " ", own(typed)], input), wrong], [keep, go]);
  const same = () => !typed || key(input.value) === key(typed);
  const decide = () => {
    if (same()) return asked.box.close("yes");
    wrong.textContent = t("typed.wrong");
    return input.focus();
  };
  go.addEventListener("click", decide);
  keep.addEventListener("click", () => asked.box.close(""));
  if (input) input.addEventListener("keydown", (e) => e.key === "Enter" && decide());
  return (await asked.closed) === "yes";
}

// A button that does something at the device: only once at a time, and says so when it is refused.
export function button(label, work, { kind = "", name, then } = {}) {
  const node = h(kind ? `button.${kind}` : "button", { type: "button", "aria-label": name }, label);
  node.addEventListener("click", () => attempt(node, work, then));
  return node;
}

export async function attempt(node, work, then) {
  if (node.getAttribute("aria-disabled") === "true") return;
  node.setAttribute("aria-disabled", "true"); // not `disabled`: that would lose the focus
  try {
    await work();
    if (then) await then();
  } catch (error) {
    say(told(error), "bad");
  } finally {
    node.removeAttribute("aria-disabled");
  }
}

export function form(work, ...children) {
  const node = h("form", { novalidate: true, submit: (e) => e.preventDefault() }, ...children);
  node.addEventListener("submit", () => attempt(node.querySelector("[type=submit]"), work));
  return node;
}

export const submit = (label) => h("button.main", { type: "submit" }, label);
