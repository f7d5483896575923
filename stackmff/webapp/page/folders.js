// The folders of the server that the page may open.

import { element } from "./sheet.js";
import { ask } from "./server.js";

const $ = id => document.getElementById(id);

export async function browse(path, on) {
  // Shows a folder below --root; on: {open(path) of the one, or the file, that is chosen; say(error)}
  const go = next => browse(next, on).catch(on.say);
  const told = await ask("GET", `/browse?${new URLSearchParams({ path })}`);
  const below = name => (told.path ? `${told.path}/` : "") + name;
  const line = (text, act) => {
    const item = element("li");
    item.append(element("button", text, { type: "button", onclick: act }));
    return item;
  };
  const lines = told.folders.map(name => line(`${name}/`, () => go(below(name))));
  if (told.path)
    lines.unshift(line("..", () => go(told.path.split("/").slice(0, -1).join("/"))));
  const files = told.files.map(name => line(name, () => on.open(below(name))));
  $("server").querySelector("ul").replaceChildren(...lines, ...files);
  const count = word => `${told.pictures} ${word}${told.pictures === 1 ? "" : "s"}`;
  const some = told.pictures ? count("picture") : "no pictures here";
  $("where").textContent = `/${told.path}: ${some}`;
  $("take-folder").hidden = told.pictures < 1;
  $("take-folder").textContent = `Open ${count("frame")}`;
  $("take-folder").onclick = () => on.open(told.path);
  if (!$("server").open) $("server").showModal();
}
