// Browsing the server's folders that the page may open.

import { byId, element } from "./elements.js";
import { ask } from "./server.js";

export async function browse(path, on) {
  // Shows a folder below --root. on: {open(path of the chosen folder or file), showError(error)}
  const go = next => browse(next, on).catch(on.showError);
  const listing = await ask("GET", `/browse?${new URLSearchParams({ path })}`);
  const below = name => (listing.path ? `${listing.path}/` : "") + name;
  const line = (text, act) => {
    const item = element("li");
    item.append(element("button", text, { type: "button", onclick: act }));
    return item;
  };
  const lines = listing.folders.map(name => line(`${name}/`, () => go(below(name))));
  if (listing.path)
    lines.unshift(line("..", () => go(listing.path.split("/").slice(0, -1).join("/"))));
  const files = listing.files.map(name => line(name, () => on.open(below(name))));
  byId("server").querySelector("ul").replaceChildren(...lines, ...files);
  const count = word => `${listing.pictures} ${word}${listing.pictures === 1 ? "" : "s"}`;
  const pictures = listing.pictures ? count("picture") : "no pictures";
  byId("where").textContent = `/${listing.path}: ${pictures}`;
  byId("open-folder").hidden = listing.pictures < 1;
  byId("open-folder").textContent = `Open ${count("frame")}`;
  byId("open-folder").onclick = () => on.open(listing.path);
  if (!byId("server").open) byId("server").showModal();
}
