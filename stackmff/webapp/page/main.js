// The page: what starts it, and what belongs to no single part of it.

import { add, home, newStack, openProject, refresh, removeStrokes, replayAll, split, tell }
  from "./actions.js";
import { byId, element, plural } from "./elements.js";
import * as exporting from "./exporting.js";
import { fillForm } from "./options.js";
import { ask, droppedFiles } from "./server.js";
import * as sheet from "./sheet.js";
import * as shelf from "./shelf.js";
import * as start from "./start.js";
import { frames, get, results, set, version, watch } from "./store.js";
import * as tools from "./tools.js";
import * as versions from "./versions.js";
import * as work from "./work.js";

const SHORTCUTS = [
  ["wheel, pinch", "zoom"],
  ["drag", "move the picture; in Retouch: paint, and move it with Shift or beside the result"],
  ["click", "which frames a pixel comes from"],
  ["1", "100 %: one pixel of the picture is one of the screen"],
  ["F", "fit the picture to the window; again: enlarge a small one"],
  ["V, C, R, 3", "result, compare, retouch, 3D view"],
  ["hold Space", "show the other picture; on a frame: the result"],
  [", and .", "the frame before and after"],
  ["D", "in Compare: where the pictures differ"],
  ["arrows, + and -", "move and zoom; turn the 3D view"],
  ["Alt + arrows", "move the comparison slider"],
  ["Z, Shift + Z", "undo and redo a stroke or a choice of frame, also with Ctrl"],
  ["[ and ]", "smaller and larger brush"],
  ["E", "eraser: restore the fused result"],
  ["Up and Down", "in Retouch: the source before and after; with Shift: move the picture"],
  ["Alt + click", "in Retouch: take the frame that is sharpest here"],
  ["S", "take the frame that is sharpest where you click next, or press Enter"],
  ["Enter", "which frame the middle of the picture comes from; in Retouch: paint there"],
  ["arrows", "while you crop: move the rectangle; with Shift: resize it"],
  ["click or Enter", "in an outlined region: fill it from the next frame; with Shift, the one before"],
  ["Esc", "close what is open"],
  ["on the frames: arrows", "go from frame to frame; Alt + arrows move it"],
  ["on the frames: Space", "include or exclude it"],
  ["?", "this list"],
];
const LEAST_SPLIT = 4; // frames of a stack that can be split
const THEMES = { "": "System", dark: "Dark", light: "Light" };

const isTyping = target => target instanceof Element && Boolean(target.closest("input, dialog"));

function listen() {
  byId("home").onclick = byId("all-projects").onclick = () => home().catch(tell);
  byId("more").onclick = () => byId("files").click();
  byId("new-stack").onclick = newStack;
  byId("split").onclick = () => split(get().stackId);
  byId("files").onchange = event => {
    const files = [...event.target.files].map(file => [file, ""]);
    event.target.value = "";
    add(files);
  };
  byId("load").onclick = () => byId("strokes").click();
  byId("strokes").onchange = event => {
    const files = [...event.target.files];
    event.target.value = "";
    replayAll(files);
  };
  byId("help").onclick = () => byId("shortcuts").showModal();
  byId("shortcuts").querySelector("dl").append(...SHORTCUTS.map(([keys, what]) =>
    element("div", null, {}, element("dt", keys), element("dd", what))));
  byId("full-screen").onclick = () => (document.fullscreenElement ? document.exitFullscreen()
    : document.documentElement.requestFullscreen());
  theme(localStorage.getItem("theme") ?? "");
  byId("theme").onclick = () => {
    const names = Object.keys(THEMES);
    theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
  };
  addEventListener("keydown", event => {
    if (event.key === "?" && !isTyping(event.target)) byId("help").click();
    else if (!tools.key(event)) return;
    event.preventDefault();
  });
  addEventListener("keyup", event => tools.keyUp(event) && event.preventDefault());
  addEventListener("beforeunload", event => {
    const { uploading, painting, exports, info, token } = get();
    const lost = !info.lasting && token && version();
    if (uploading || painting || exports.length || lost) event.preventDefault();
  });
  addEventListener("visibilitychange", () => document.hidden || refresh());
  drops();
  watch(s => [s.token, s.stackId, s.stack?.frames, s.uploading], (token, stackId, count) => {
    const open = token !== null && stackId !== null;
    byId("more").hidden = !open;
    byId("all-projects").hidden = !open || !get().info.lasting;
    byId("new-stack").hidden = !open || !count;
    byId("projects").hidden = open || !get().projects.length;
  });
  watch(s => [(s.stack?.frames ?? 0) < LEAST_SPLIT || results(s).length > 0,
    Boolean(s.uploading || s.finding || s.stack?.examining || s.stack?.work)], (never, waits) => {
    byId("split").hidden = never;
    byId("split").disabled = waits;
  });
  watch(s => [s.stack?.results?.length, s.stack?.id], arrived);
  watch(s => [s.stack?.examining, s.uploading, s.stack?.id, Boolean(version(s))], framesArrived);
}

const known = new Map(); // results of each stack, when it was shown last

/** Shows a new version, and puts the keyboard's focus on it. */
function arrived(count, id) {
  if (count === undefined) return;
  const key = `${get().token}/${id}`;
  const before = known.get(key);
  known.set(key, count);
  if (before === undefined || count <= before) return;
  const made = results(get()).at(-1);
  const { number, run, strokes } = made ?? {};
  const carried = strokes === 1 ? "brush stroke" : plural(strokes, "brush stroke");
  const also = strokes ? `has your ${carried} too` : "";
  const action = strokes ? { label: "Remove them", take: () => removeStrokes(made) } : undefined;
  if (get().tool === "retouch" && get().run !== null) { // it does not interrupt
    const told = `Version ${number} is ready${also && ` and ${also}`}`;
    tell(new Error(told), "note", run, action);
    return;
  }
  if (also) tell(new Error(`Version ${number} ${also}`), "note", run, action);
  set({ run: null, frameId: null });
  const at = document.activeElement;
  if (at === document.body || at.closest("#fuse")) byId("picture").focus({ preventScroll: true });
}

/** Once the frames are there, the middle one is shown, and Enter fuses them. */
function framesArrived(examining, uploading, id, isFused) {
  if (id === undefined || examining || uploading || isFused || !get().stack.frames) return;
  const all = frames(get());
  if (get().frameId === null && !get().grid && all.length)
    set({ frameId: all[Math.floor(all.length / 2)].id });
  queueMicrotask(() => {
    const at = document.activeElement;
    if (at === document.body || at.closest("header, #start")) byId("go").focus();
  });
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${THEMES[name]}`;
  localStorage.setItem("theme", name);
}

function drops() {
  const files = event => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", event => {
    if (!files(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", event => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", async event => {
    document.body.classList.remove("dropping");
    if (!files(event)) return;
    event.preventDefault();
    add(await droppedFiles(event.dataTransfer));
  });
}

async function begin() {
  set({ info: await ask("GET", "/info") });
  fillForm(get().info.form, byId("options"), byId("more-options"));
  start.listen();
  sheet.listen();
  shelf.listen();
  tools.listen();
  versions.listen();
  exporting.listen();
  work.listen();
  listen();
  const token = location.hash.slice(1);
  if (token) await openProject(token).catch(error => home().then(() => tell(error)));
  else await home();
  await refresh();
  document.body.dataset.ready = "yes";
}

begin().catch(tell);
