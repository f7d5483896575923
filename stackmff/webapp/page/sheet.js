// The contact sheet: frames to be moved, excluded and chosen. It is a grid until one is looked at.

import { arrange, choose, toggle } from "./actions.js";
import { byId, element, isClicked, keyed, nameParts } from "./elements.js";
import { compared } from "./layers.js";
import { ofStack } from "./server.js";
import { frames, get, version, watch } from "./store.js";

let lifted = null; // id of the frame that is being dragged
let current = null; // id of the card that the Tab key reaches

export function listen() {
  const list = byId("sheet");
  watch(s => [s.stack?.list, s.stackId], () => draw(list));
  watch(s => [s.stack?.list, s.frame, s.frameId, s.stack?.results, s.run, s.tool, s.other, s.source],
    () => mark(list));
  list.addEventListener("keydown", event => keys(event, list));
}

const ids = () => frames(get()).map(one => one.id);

function draw(list) {
  const all = frames(get());
  if (!all.some(one => one.id === current)) current = all[0]?.id ?? null;
  keyed(list, all, one => `${get().stackId}/${one.id}`, make, update);
}

function make({ id, name }) {
  const item = element("li", null, { draggable: true });
  const image = element("img", null, { src: ofStack(`/thumb/${id}`), alt: "", loading: "lazy",
    decoding: "async", draggable: false });
  const card = element("button", null, { className: "card", type: "button", title: name,
    onclick: () => {
      current = id;
      choose(id);
    } },
  image, element("span", null, { className: "sharp",
    title: "Sharpness, beside that of the sharpest frame" }, element("i")),
  element("span", null, { className: "name" }, ...nameParts(name)));
  card.dataset.id = id;
  const out = element("button", null, { className: "toggle", type: "button", tabIndex: -1,
    onclick: () => toggle(id) });
  item.append(card, out);
  item.ondragstart = event => {
    lifted = id;
    event.dataTransfer.setData("text/frame", id);
  };
  item.ondragover = event => {
    if (!event.dataTransfer.types.includes("text/frame")) return;
    event.preventDefault();
    item.classList.add(ids().indexOf(lifted) < ids().indexOf(id) ? "behind" : "before");
  };
  item.ondragleave = () => item.classList.remove("before", "behind");
  item.ondrop = event => {
    item.classList.remove("before", "behind");
    const moved = Number(event.dataTransfer.getData("text/frame"));
    if (!event.dataTransfer.types.includes("text/frame") || moved === id) return;
    event.preventDefault();
    event.stopPropagation();
    // It takes the place of the frame that it is dropped on, so that it can become the last.
    const order = ids().filter(other => other !== moved);
    order.splice(ids().indexOf(id), 0, moved);
    arrange(order, frames(get()).filter(one => !one.used).map(one => one.id));
  };
  return item;
}

function update(item, { id, name, used, sharpness }) {
  const [card, out] = item.children;
  item.classList.toggle("out", !used);
  card.querySelector("i").style.width = `${sharpness * 100}%`;
  card.querySelector(".sharp").dataset.told = `Sharpness ${Math.round(sharpness * 100)} %`;
  const state = used ? "" : ", excluded";
  card.setAttribute("aria-label", `${name}${state}, sharpness ${Math.round(sharpness * 100)} %`);
  card.tabIndex = id === current ? 0 : -1;
  out.textContent = used ? "✕" : "+";
  out.title = used ? "Exclude" : "Include";
  out.setAttribute("aria-label", `${out.title} ${name}`);
}

function mark(list) {
  const { frame, frameId, tool, source } = get();
  const found = version();
  const shows = found && ((tool === "retouch" && !source)
    || (tool === "compare" && compared(found).key === `frame ${frame}`));
  const name = found && frameId === null && shows ? found.names[frame] : null;
  const one = frames(get()).find(each => (frameId === null ? each.name === name : each.id === frameId));
  for (const item of list.children) {
    const chosen = one && item.firstChild.dataset.id === String(one.id);
    if (item.classList.toggle("chosen", Boolean(chosen)) && !item.dataset.was)
      item.scrollIntoView({ block: "nearest", inline: "nearest" });
    item.dataset.was = chosen ? "yes" : "";
    item.firstChild.setAttribute("aria-pressed", Boolean(chosen));
    // What alignment left out is told in the notes, and seen here.
    const at = found ? found.names.indexOf(item.firstChild.title) : -1;
    const leftOut = at >= 0 && !found.kept.includes(at);
    if (leftOut !== (item.lastChild.className === "badge")) 
      if (leftOut) item.append(element("span", "left out", { className: "badge" }));
      else item.lastChild.remove();
    
  }
}

function keys(event, list) {
  const card = event.target.closest(".card");
  // Held after a click, Space shows the other picture: see tools.js.
  if (!card || (event.key === " " && version() && isClicked(card))) return;
  const id = Number(card.dataset.id);
  const order = ids();
  const at = order.indexOf(id);
  // In the grid up and down move by a row.
  const row = list.children.length ? Math.max(Math.round(
    list.clientWidth / (list.children[0].offsetWidth + 11)), 1) : 1;
  const rows = getComputedStyle(list).display === "grid" ? row : 1;
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -rows, ArrowDown: rows }[event.key];
  const excluded = () => frames(get()).filter(one => !one.used).map(one => one.id);
  if (event.key === "Delete" || event.key === " ") toggle(id);
  else if (way && event.altKey && order[at + way] !== undefined) {
    order.splice(at, 1);
    order.splice(at + way, 0, id);
    arrange(order, excluded());
  } else if (way || event.key === "Home" || event.key === "End") {
    const next = event.key === "Home" ? 0 : event.key === "End" ? order.length - 1
      : Math.min(Math.max(at + way, 0), order.length - 1);
    current = order[next];
    for (const item of list.children) item.firstChild.tabIndex = -1;
    const target = list.children[next].firstChild;
    target.tabIndex = 0;
    target.focus();
  } else return;
  event.preventDefault();
  event.stopPropagation();
}
