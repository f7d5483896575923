// The contact sheet: frames in focus order, to be moved, excluded and chosen.

import { element } from "./elements.js";
import { address } from "./server.js";

let lifted = null; // id of the frame that is being dragged

export function showFrames(list, frames, on) {
  // frames: as the server describes them; on: {arrange(order, id to toggle), choose(name)}
  const ids = frames.map(one => one.id);
  const held = list.contains(document.activeElement) && document.activeElement;
  const at = held && [held.closest("li").dataset.id, held.tagName];
  list.replaceChildren(...frames.map(frame => {
    const item = element("li", undefined, { draggable: true, tabIndex: 0 });
    item.dataset.id = frame.id;
    item.classList.toggle("out", !frame.used);
    const image = element("img", undefined, { src: address(`/thumb/${frame.id}`), alt: frame.name });
    image.draggable = false;
    const sharp = element("div", undefined, {
      className: "sharp", title: `Sharpness: ${Math.round(frame.sharpness * 100)} % of the sharpest`,
    });
    const bar = element("i");
    bar.style.width = `${frame.sharpness * 100}%`;
    sharp.append(bar);
    const name = element("div", undefined, { className: "name" });
    const toggle = element("button", frame.used ? "✕" : "+", {
      title: frame.used ? "Exclude this frame" : "Include this frame",
    });
    toggle.setAttribute("aria-label", `${toggle.title}: ${frame.name}`);
    toggle.onclick = event => {
      event.stopPropagation();
      on.arrange(ids, frame.id);
    };
    name.append(element("span", frame.name, { title: frame.name }), toggle);
    item.append(image, sharp, name);
    item.onclick = () => on.choose(frame.name);
    item.onkeydown = event => keys(event, frame, ids, on);
    item.ondragstart = event => {
      lifted = frame.id;
      event.dataTransfer.setData("text/frame", frame.id);
    };
    item.ondragover = event => {
      if (!event.dataTransfer.types.includes("text/frame")) return;
      event.preventDefault();
      item.classList.add(ids.indexOf(lifted) < ids.indexOf(frame.id) ? "behind" : "before");
    };
    item.ondragleave = () => item.classList.remove("before", "behind");
    item.ondrop = event => {
      item.classList.remove("before", "behind");
      const moved = Number(event.dataTransfer.getData("text/frame"));
      if (event.dataTransfer.types.includes("text/frame") && moved !== frame.id) {
        event.preventDefault();
        // It takes the place of the frame that it is dropped on, so that it can become the last.
        const order = ids.filter(id => id !== moved);
        order.splice(ids.indexOf(frame.id), 0, moved);
        on.arrange(order);
      }
    };
    return item;
  }));
  // Keep the keyboard focus.
  const item = at && list.querySelector(`[data-id="${at[0]}"]`);
  if (item) (at[1] === "BUTTON" ? item.querySelector("button") : item).focus();
}

function keys(event, frame, ids, on) {
  if (event.target !== event.currentTarget) return; // a key of its button
  const order = [...ids];
  const at = order.indexOf(frame.id);
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Delete" || event.key === " ") on.arrange(order, frame.id);
  else if (event.key === "Enter") on.choose(frame.name);
  else if (way && event.altKey && order[at + way] !== undefined) {
    [order[at], order[at + way]] = [order[at + way], order[at]];
    on.arrange(order);
  } else if (way) event.currentTarget[way < 0 ? "previousSibling" : "nextSibling"]?.focus();
  else return;
  event.preventDefault();
}
