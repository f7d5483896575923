// The options of fusion: a form made of the fields that the server describes.

import { element } from "./elements.js";

const FIRST = ["align", "match_exposure"]; // shown at once, in this order; the others on request
const inputs = new Map(); // by the name of the option

export function fillForm(fields, first, more) {
  // fields: see fuse_form() of form.py; first, more: the parts of the page that they go into.
  const rank = field => (FIRST.includes(field.name) ? FIRST.indexOf(field.name) : FIRST.length);
  inputs.clear();
  for (const field of [...fields].sort((a, b) => rank(a) - rank(b))) {
    const label = element("label", `${field.label} `, { title: field.help });
    const input = inputOf(field);
    input.id = `option-${field.name}`;
    inputs.set(field.name, { field, input });
    label.append(input);
    (FIRST.includes(field.name) ? first : more).append(label);
  }
  more.hidden = inputs.size <= FIRST.length;
  more.onchange = tellChanged;
}

/** Tells how many options differ from what is usual, also while they are folded away. */
function tellChanged() {
  const changed = [...inputs.values()].filter(({ field, input }) =>
    !FIRST.includes(field.name) && valueOf(field, input) !== (field.default ?? null)).length;
  document.querySelector("#more-options summary").textContent =
    changed ? `More options (${changed} changed)` : "More options";
}

function inputOf({ kind, default: value, choices, choice_labels: words, low, high }) {
  if (kind === "switch") return element("input", undefined, { type: "checkbox", checked: value });
  if (kind === "choice") {
    const select = element("select");
    choices.forEach((choice, k) => select.append(new Option(words[k], k, choice === value,
      choice === value)));
    return select;
  }
  const input = element("input", undefined, { type: "text", value: value ?? "" });
  if (kind === "int" || kind === "float") {
    input.type = "number";
    input.step = kind === "int" ? 1 : "any";
    input.placeholder = "none";
    if (low !== null) input.min = low;
    if (high !== null) input.max = high;
  }
  return input;
}

function valueOf({ kind, choices, default: value }, input) {
  if (kind === "switch") return input.checked;
  if (kind === "choice") return choices[input.value];
  if (input.value === "") return value === "" ? "" : null;
  return kind === "int" || kind === "float" ? Number(input.value) : input.value;
}

/** Shows the values of an earlier run; fields that it does not have get their defaults. */
export function fill(chosen) {
  for (const { field, input } of inputs.values()) {
    const value = chosen[field.name] ?? (field.name in chosen ? null : field.default);
    if (field.kind === "switch") input.checked = value;
    else if (field.kind === "choice") input.value = field.choices.indexOf(value);
    else input.value = value ?? "";
  }
  tellChanged();
}

export function values() {
  // {name: value} for the server, or null after the browser has marked an input that is wrong.
  const bad = [...inputs.values()].find(({ input }) => !input.checkValidity());
  if (bad) {
    const details = bad.input.closest("details");
    if (details) details.open = true;
    bad.input.reportValidity();
    return null;
  }
  return Object.fromEntries([...inputs].map(([name, { field, input }]) =>
    [name, valueOf(field, input)]));
}
