// All words of the page: strings/LANGUAGE.json, and dates and numbers as that language writes them.

import { english } from "./dom.js";

export const LANGUAGES = { en: "English", de: "Deutsch" };
const CHOICE = "idiolect.language"; // the only thing that the page keeps in the browser

let words = {};
let plural = new Intl.PluralRules("en");
export let language = "en";

// The first language that we have of those that the browser's owner reads.
export function preferred() {
  const wishes = [localStorage.getItem(CHOICE), ...navigator.languages].filter(Boolean);
  return wishes.map((wish) => wish.slice(0, 2).toLowerCase()).find((wish) => wish in LANGUAGES) || "en";
}

export async function load(wanted, remember = false) {
  const answer = await fetch(`strings/${wanted}.json`);
  if (!answer.ok) throw new Error(wanted);
  words = await answer.json();
  language = document.documentElement.lang = wanted;
  plural = new Intl.PluralRules(wanted);
  if (remember) localStorage.setItem(CHOICE, wanted);
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
}

export const known = (key) => key in words;

// t("kept.count", {n: 3}): where there are .one and .other, n chooses.
export function t(key, values = {}) {
  const text = words[key] ?? words[`${key}.${plural.select(values.n)}`] ?? words[`${key}.other`] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

// The daemon's reasons are English; those that have words here are said in the page's language.
export function reason(text) {
  const check = /^check (\d+) failed/.exec(text);
  const given = /^given up after \d+ attempts: (.*)$/s.exec(text);
  if (given) return [t("why.given-up"), " ", reason(given[1])];
  const slug = text.split(/[:;]/)[0].toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const key = check ? `gate.${check[1]}` : `why.${slug}`;
  return known(key) ? t(key) : english(text);
}

export const quoted = (phrases) => phrases.map((phrase) => t("quoted", { phrase })).join(", ");

// What telling this voice from others still lacks; nothing where that was not agreed to.
export function voice(lack) {
  if (!lack) return "";
  return t(`voice.${lack.state}`, { n: lack.needed - lack.examples, phrases: quoted(lack.such_as) });
}

const dated = (value, options) => new Intl.DateTimeFormat(language, options).format(value);

// 2027-01-31, a day without a time zone.
export const day = (text) => dated(new Date(`${text}T00:00Z`), { dateStyle: "medium", timeZone: "UTC" });
export const moment = (seconds) => dated(seconds * 1000, { dateStyle: "medium", timeStyle: "short" });
export const clock = (seconds) => dated(seconds * 1000, { timeStyle: "medium" });
export const date = (seconds) => dated(seconds * 1000, { dateStyle: "medium" });
export const percent = (share, digits = 1) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits }).format(share);
export const number = (value) => new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(value);
