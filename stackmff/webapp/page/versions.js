// The versions of a stack, and the notes of the one that is shown.

import { capital, deleteVersion } from "./actions.js";
import { byId, element, plural } from "./elements.js";
import { get, results, set, version, watch } from "./store.js";

export function listen() {
  watch(s => [s.stack?.results, s.run], draw);
}

function draw() {
  const all = results(get());
  const shown = version();
  byId("versions").hidden = !shown;
  if (!shown) {
    byId("versions").querySelector("ol").replaceChildren();
    byId("notes").replaceChildren();
    return;
  }
  byId("notes-title").textContent = shown.draft ? "Notes on the draft" : `Notes on version ${shown.number}`;
  byId("versions").querySelector("ol").replaceChildren(...all.filter(one => !one.draft).map(one => {
    const told = [`${one.seconds} s`, ...optionsOf(one)];
    if (one.strokes) told.push(plural(one.strokes, "stroke"));
    const card = element("button", null, { className: "card",
      onclick: () => set({ run: one.run, frameId: null }) },
      element("b", `Version ${one.number}`), element("span", told.join(", "), { className: "soft" }));
    card.setAttribute("aria-pressed", one === shown);
    return element("li", null, {}, card, element("button", "✕", { className: "toggle",
      title: "Delete this version", ariaLabel: `Delete version ${one.number}`,
      onclick: () => deleteVersion(one) }));
  }));
  const broken = get().stack.results.filter(one => one.broken).map(one => one.broken);
  const first = shown.draft ? ["Draft at a quarter of the size; the details follow."] : [];
  byId("notes-title").hidden = !first.length && !shown.notes.length;
  byId("notes").replaceChildren(...[...first, ...shown.notes, ...broken].map(note =>
    element("li", capital(note))));
}

/** What distinguishes a version: the options that differ from the defaults, in words. */
function optionsOf({ options }) {
  const told = [];
  for (const { name, default: usual, choices, choice_labels: words, label, kind } of get().info.form) {
    if (!(name in options) || options[name] === usual) continue;
    if (kind === "choice") told.push(`${label}: ${words[choices.indexOf(options[name])]}`);
    else if (kind === "switch") told.push(`${label}: ${options[name] ? "on" : "off"}`);
    else if (options[name] !== null) told.push(label.replace(/^Also save /, "").replace("N", options[name]));
  }
  return told;
}
