// The start page: where frames are dropped, and the projects on the disk.

import { addExample, deleteProject, exportProject, importProject, openAll, openFolder, openProject, tell }
  from "./actions.js";
import { age, byId, element, plural, size } from "./elements.js";
import { ask, address, session } from "./server.js";
import { get, watch } from "./store.js";

export function listen() {
  byId("choose").onclick = () => byId("files").click();
  byId("example").onclick = addExample;
  byId("browse").hidden = !get().info.root;
  byId("browse").onclick = () => browse("").catch(tell);
  byId("import").hidden = !get().info.lasting;
  byId("import").onclick = () => byId("archive").click();
  byId("archive").onchange = event => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) importProject(file);
  };
  watch(s => [s.projects], draw);
  watch(s => [s.importing, s.exports, s.saved, s.stackId, s.finding], () => {
    const { importing, exports, saved, stackId, finding } = get();
    const written = exports.length ? `${exports[0].label}: writing the file …` : saved.at(-1)?.text ?? "";
    byId("start-work").textContent = importing ? `Opening ${importing} …`
      : finding ? "Looking for stacks …" : stackId === null ? written : "";
  });
}

function draw(projects) {
  byId("projects").hidden = !projects.length;
  byId("projects").querySelector("ul").replaceChildren(...projects.map(project => {
    const told = `${plural(project.stacks, "stack")}, ${size(project.bytes)}, ${age(project.used)}`;
    return element("li", null, {},
      element("button", null, { className: "card", onclick: () => openProject(project.token).catch(tell) },
        element("b", project.name), element("span", told, { className: "soft" })),
      element("button", "Export", { className: "toggle", title: "Save this project as one file",
        ariaLabel: `Export the project ${project.name}`, onclick: () => exportProject(project) }),
      element("button", "✕", { className: "toggle", title: "Delete this project",
        ariaLabel: `Delete the project ${project.name}`, onclick: () => deleteProject(project) }));
  }));
}

async function browse(path) {
  // Shows a folder below --root.
  await session();
  const go = next => browse(next).catch(tell);
  const listing = await ask("GET", address(`/browse?${new URLSearchParams({ path })}`));
  const below = name => (listing.path ? `${listing.path}/` : "") + name;
  const open = word => {
    byId("server").close();
    openFolder(word);
  };
  const entry = (text, act) =>
    element("li", null, {}, element("button", text, { type: "button", onclick: act }));
  const lines = listing.folders.map(name => entry(`${name}/`, () => go(below(name))));
  if (listing.path)
    lines.unshift(entry("..", () => go(listing.path.split("/").slice(0, -1).join("/"))));
  const files = listing.files.map(name => entry(name, () => open(below(name))));
  byId("server").querySelector("ul").replaceChildren(...lines, ...files);
  const pictures = listing.pictures ? plural(listing.pictures, "picture") : "no pictures";
  byId("where").textContent = `/${listing.path}: ${pictures}`;
  byId("open-folder").hidden = listing.pictures < 1;
  byId("open-folder").textContent = `Open ${plural(listing.pictures, "frame")}`;
  byId("open-folder").onclick = () => open(listing.path);
  byId("open-all").hidden = !listing.folders.length && listing.files.length + listing.pictures < 4;
  byId("open-all").onclick = () => {
    byId("server").close();
    openAll(listing.path);
  };
  if (!byId("server").open) byId("server").showModal();
}
