// Who are you? The code comes from `idiolect pair NAME`, typed at the device.

import { Refused, post, told } from "./api.js";
import { form, submit } from "./ask.js";
import { card, field, h, own } from "./dom.js";
import { t } from "./text.js";

const COMMAND = "idiolect pair NAME";

// Ten letters and digits, four and six.
export function tidy(text) {
  const plain = text.toUpperCase().replace(/[^A-Z0-9]/g, "").slice(0, 10);
  return plain.length > 4 ? `${plain.slice(0, 4)}-${plain.slice(4)}` : plain;
}

export async function show(root, app) {
  const input = h("input.code", {
    name: "code", autocomplete: "one-time-code", autocapitalize: "characters", spellcheck: "false", maxlength: 12,
    required: true, translate: "no",
  });
  const wrong = h("p.hint.bad", { role: "alert" });
  input.addEventListener("input", () => {
    if (input.selectionStart === input.value.length) input.value = tidy(input.value);
  });
  const work = async () => {
    wrong.replaceChildren();
    input.removeAttribute("aria-invalid");
    try {
      app.enter(await post("/v1/session", { code: tidy(input.value) }));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      input.setAttribute("aria-invalid", "true");
      wrong.append(...[[401, 403, 404, 422].includes(error.status) ? t("pair.wrong") : told(error)].flat());
      input.focus();
      return;
    }
    await app.again({ focus: true });
  };
  root.append(
    h("p", {}, t("pair.text")),
    card(t("pair.head"),
      h("ol", {}, h("li", {}, t("pair.first"), " ", h("code", { translate: "no" }, COMMAND)), h("li", {}, t("pair.second"))),
      form(work, field(t("pair.code"), input, t("pair.hint")), wrong, submit(t("pair.go")))),
    location.protocol === "https:" && card(t("pair.sure"), h("p", {}, t("pair.fingerprint"))) || "",
    h("p.quiet", {}, own("Idiolect"), " ", t("pair.private")));
}
