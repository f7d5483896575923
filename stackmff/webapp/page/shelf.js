// The shelf: the stacks of the session, each with its cover and its state.

import { deleteStack, fuseAll, show } from "./actions.js";
import { byId, element, keyed, nameParts, plural } from "./elements.js";
import { values } from "./options.js";
import { address } from "./server.js";
import { watch } from "./store.js";

export function listen() {
  watch(s => [s.stacks, s.stackId], draw);
  byId("fuse-all").onclick = () => {
    const chosen = values();
    if (chosen) fuseAll(chosen);
  };
}

function draw(stacks, stackId) {
  byId("shelf").hidden = stacks.length < 2;
  keyed(byId("shelf").querySelector("ol"), stacks, one => one.id, make, (item, one) => {
    const [card, image] = [item.firstChild, item.querySelector("img")];
    const source = one.cover === null ? "" : address(`/k/${one.id}/thumb/${one.cover}`);
    if (image.dataset.source !== source) {
      image.dataset.source = source;
      if (source) image.src = source;
      else image.removeAttribute("src");
    }
    card.setAttribute("aria-current", one.id === stackId);
    const name = item.querySelector(".name");
    if (name.title !== one.name) {
      name.title = one.name;
      name.replaceChildren(...nameParts(one.name));
    }
    item.querySelector(".state").textContent = stateOf(one);
    item.querySelector("progress").hidden = !one.work;
    item.querySelector("progress").value = one.work?.fraction ?? 0;
    item.lastChild.setAttribute("aria-label", `Delete the stack ${one.name}`);
  });
  const waiting = stacks.filter(one => !one.versions && !one.work && one.used > 1);
  byId("fuse-all").disabled = !waiting.length || stacks.some(one => one.examining);
  byId("fuse-all").textContent = waiting.length ? `Fuse all (${waiting.length})` : "Fuse all";
}

export function stateOf(one) {
  if (one.work?.stage === "waiting")
    return one.work.before ? `Queued, ${plural(one.work.before, "job")} ahead` : "Starting";
  if (one.work) return `Fusing, ${Math.round(100 * one.work.fraction)} %`;
  if (one.examining) return `Reading, ${plural(one.frames, "frame")}`;
  if (one.failure) return "Failed";
  const count = plural(one.frames, "frame");
  return one.versions ? `${count}, ${plural(one.versions, "version")}` : count;
}

function make({ id }) {
  const card = element("button", null, { className: "card", type: "button", onclick: () => show(id) },
    element("img", null, { alt: "" }), element("span", null, { className: "name" }),
    element("span", null, { className: "state" }),
    element("progress", null, { max: 1, hidden: true, ariaLabel: "Progress" }));
  const out = element("button", "✕", { className: "toggle", type: "button", title: "Delete this stack",
    onclick: () => deleteStack(id) });
  return element("li", null, {}, card, out);
}
