// What the page asks the device. Same origin only; who we are says a cookie that no script can read.

import { english } from "./dom.js";
import { known, t } from "./text.js";

const PATIENCE = 20000; // ms

export class Refused extends Error {
  constructor(status, field, message) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

let stranger = () => {};
// Called when the device does not know this browser (any more).
export function onStranger(then) {
  stranger = then;
}

export async function ask(method, path, body) {
  const given = { method, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) };
  if (body !== undefined) {
    given.headers = { "Content-Type": "application/json" };
    given.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, given);
  } catch {
    throw new Refused(0, "", "");
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  const { field = "", message = "" } = said.error || {};
  if (answer.status === 401 && path !== "/v1/session") stranger();
  throw new Refused(answer.status, field, message);
}

export const get = (path, query) => ask("GET", query ? `${path}?${new URLSearchParams(query)}` : path);
export const post = (path, body = {}) => ask("POST", path, body);
export const remove = (path) => ask("DELETE", path);

// A refusal in the page's language where it has words for it, else in the daemon's.
export function told(error) {
  if (!(error instanceof Refused)) return t("error.page");
  for (const key of [`error.${error.status}.${error.field}`, `error.${error.status}`]) if (known(key)) return t(key);
  return error.message ? [t("error.refused"), " ", english(error.message)] : t("error.page");
}

const KINDS = ["wake", "phrase", "rejected", "state"];

// The device's events, for ever: the browser comes back by itself and says what it has had. `state`: true once it is
// there, false while it is not. Returns what ends it.
export function follow(event, state) {
  let source, timer;
  const open = () => {
    source = new EventSource("/v1/events");
    for (const kind of KINDS) source.addEventListener(kind, (e) => event(JSON.parse(e.data)));
    for (const gap of ["lagged", "restarted"]) source.addEventListener(gap, () => event({ kind: "lagged" }));
    source.onopen = () => state(true);
    source.onerror = () => {
      state(false);
      if (source.readyState !== EventSource.CLOSED) return;
      clearTimeout(timer);
      timer = setTimeout(() => get("/v1/status").then(open, (e) => e.status === 401 || source.onerror()), 3000);
    };
  };
  open();
  return () => {
    clearTimeout(timer);
    source.onerror = null;
    source.close();
  };
}
