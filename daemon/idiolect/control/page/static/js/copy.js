// Taking along, bringing back, and being forgotten altogether.

import { post, told } from "./api.js";
import { form, submit, sure, button } from "./ask.js";
import { card, field, h, say } from "./dom.js";
import { t } from "./text.js";

const LARGEST = 16 << 20; // bytes: more the device does not take

const secret = (name) => h("input", { type: "password", autocomplete: name, maxlength: 256 });

// A file out of this browser's memory: it comes from the device and passes nobody else.
function download(name, document_) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(document_)], { type: "application/json" }));
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function taking(app) {
  const [first, second] = [secret("new-password"), secret("new-password")];
  const work = async () => {
    if (first.value !== second.value) {
      say(t("copy.differ"), "bad");
      return second.focus();
    }
    const made = await post("/v1/export", { profile: app.session.person, passphrase: first.value });
    download(`idiolect-${new Date().toISOString().slice(0, 10)}.json`, made);
    first.value = second.value = "";
    return say(t("copy.exported"));
  };
  return card(t("copy.export"), h("p", {}, t("copy.export.text")),
    form(work, field(t("copy.phrase"), first, t("copy.phrase.hint")), field(t("copy.again"), second), submit(t("copy.export.go"))));
}

function bringing(app) {
  const file = h("input", { type: "file", accept: "application/json" });
  const pass = secret("off");
  const work = async () => {
    const chosen = file.files[0];
    if (!chosen || chosen.size > LARGEST) {
      say(t(chosen ? "copy.large" : "copy.choose"), "bad");
      return file.focus();
    }
    let copy;
    try {
      copy = JSON.parse(await chosen.text());
    } catch {
      return say(t("copy.none"), "bad");
    }
    const answer = await post("/v1/import", { profile: app.session.person, document: copy, passphrase: pass.value });
    pass.value = file.value = "";
    const left = answer.left_out_without_consent;
    return say([t("copy.imported", { n: answer.imported }), " ", left ? t("copy.left", { n: left }) : ""]);
  };
  return card(t("copy.import"), h("p", {}, t("copy.import.text")),
    form(work, field(t("copy.file"), file), field(t("copy.open"), pass), submit(t("copy.import.go"))));
}

function erasing(app) {
  const work = async () => {
    const name = app.session.person;
    if (!(await sure(t("copy.erase"), t("copy.erase.sure"), t("copy.erase.go"), { typed: name }))) return;
    const answer = await post("/v1/erase", { profile: name });
    say(t("copy.erased", { n: answer.erased }));
    await app.renew().catch((error) => error.status === 401 ? app.leave(t("copy.erased", { n: answer.erased })) : say(told(error), "bad"));
    await app.again();
  };
  return card(t("copy.erase"), h("p", {}, t("copy.erase.text")), h("div.row", {}, button(t("copy.erase.open"), work, { kind: "danger" })));
}

export async function show(root, app) {
  if (!app.session.profile) {
    root.append(h("p", {}, t("kept.nothing")), h("p", {}, t("copy.agree")), h("p", {}, h("a", { href: "#consent" }, t("kept.begin"))));
    return;
  }
  root.append(taking(app), bringing(app), erasing(app));
}
