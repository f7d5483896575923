// The viewer with its tools: what is shown on the canvas, and how.

import { cancelMethod, capital, choose, compareMethod, painting, replayed, tell, turnRegion }
  from "./actions.js";
import { all as allOf, byId, isClicked, plural } from "./elements.js";
import { brushSource, comparable, compared, fillGroups, frameIndex, frameLayer, fusedLayer, making,
  otherName, sources } from "./layers.js";
import { probe } from "./probe.js";
import { ask, bytes, ofStack } from "./server.js";
import { frames, get, idOf, results, set, version, watch } from "./store.js";
import { PictureView } from "./view.js";
import { View3D } from "./view3d.js";

let view;
let scene;
let sceneOf = null; // run and stamp of the result that the 3D view shows
let wasRun = null; // stack and run of the result that was drawn last
let sceneLoads = false;
let hasCompared = false; // whether the slider or the keyboard was used to compare
const NONE = []; // regions
const FIELDS = "input[type=text], input[type=number]"; // in which one types
const HINTS = "hints-read"; // where the browser keeps the tools whose first hint was dismissed

export function listen() {
  view = new PictureView(byId("picture"), get().info.tile, {
    address: (layer, ...at) => ofStack(`/tile/${layer.run}/${layer.name}/${at.join("/")}`),
    probe: (x, y) => version() && get().frameId === null && probe(view, x, y),
    stroke, sharpest,
    region: (index, way) => turnRegion(index, way).then(settled),
    step: way => stepSource(way),
    wiped: share => {
      byId("wipe").value = 100 - share * 100;
      nowCompares();
    },
    zoomed: (scale, fitted) => {
      byId("actual-size").setAttribute("aria-pressed", !fitted && Math.abs(scale - 1) < 1e-6);
      byId("zoom").value = `${(scale * 100).toFixed(scale < 0.1 ? 1 : 0)} %`;
      byId("fit").setAttribute("aria-pressed", fitted);
      setBrush();
    },
    cropped: crop => set({ crop }),
    pen: () => {
      byId("pressure-option").hidden = false;
    },
  });
  scene = new View3D(byId("scene"), get().info.tallest);
  replayed.by = settled;
  buttons();
  // Not the whole stack, which changes with each step of its work: the canvas would be painted again.
  watch(s => [s.stack?.id, s.stack?.results, s.stack?.list, JSON.stringify(s.stack?.comparing),
    s.stack?.frames, Boolean(s.stack?.examining), Boolean(s.uploading), s.waitsForFrames, s.run,
    s.frame, s.frameId, s.tool, s.other, s.compareMode, s.sourcePane, s.erasing, s.picking, s.overlay,
    s.crop, s.cropping, s.source, s.outlines, s.region], draw);
}

// What is shown

function draw() {
  const { stack, frameId, tool } = get();
  const found = version();
  const isFrame = frameId !== null;
  if (!stack) view.reset();
  document.body.dataset.stage = !get().token || get().stackId === null ? "start"
    : isFrame ? "frame" : found ? "result" : stack && !stack.frames && !stack.examining
      && !get().waitsForFrames && !get().uploading ? "start" : "frames";
  const mode = isFrame ? "frame" : tool;
  if (byId("tools").dataset.tool !== mode) {
    byId("tools").dataset.tool = mode;
    byId("probe").hidden = true;
    view.mark = null;
  }
  for (const button of allOf("button[data-tool]"))
    button.setAttribute("aria-pressed", button.dataset.tool === tool);
  byId("picture").hidden = tool === "3d" && !isFrame;
  byId("scene").hidden = !byId("picture").hidden;
  if (isFrame) drawFrame(frameId);
  else if (found) drawResult(found);
  else byId("left").textContent = byId("right").textContent = tellHint("");
}

function drawFrame(id) {
  const frame = frames(get()).find(one => one.id === id);
  if (!frame) return set({ frameId: null });
  view.brush = null;
  view.crop.active = false;
  view.regions.show(NONE);
  byId("region").textContent = tellHint("");
  const found = version();
  byId("close-frame").textContent = found ? "Back to the result" : "All frames";
  const index = found ? found.names.indexOf(frame.name) : -1;
  // Beside a result it is shown in register, at the same place and zoom.
  const main = index >= 0 ? frameLayer(found, index)
    : { run: "frame", name: String(id), least: frame.whole ? 0 : 2, stamp: String(frame.whole) };
  view.show({ picture: index >= 0 ? found : frame, main, other: index >= 0 ? fusedLayer(found) : null,
    mode: "single", overlay: null });
  byId("left").textContent = frame.used ? frame.name : `${frame.name}, excluded`;
  byId("right").textContent = "";
  drawLegend(null);
  return undefined;
}

function drawResult(found) {
  const { tool, compareMode, sourcePane, overlay, erasing, picking, cropping } = get();
  allOf("button[data-tool=retouch]")[0].disabled = found.draft;
  if (found.draft && tool === "retouch") set({ tool: "result" });
  const compares = tool === "compare";
  const side = compares ? compareMode === "side" : tool === "retouch" && sourcePane;
  const crops = cropping && tool === "result";
  const begins = crops && !view.crop.active && !get().crop;
  view.crop.active = crops;
  view.crop.box ??= get().crop;
  if (!get().crop && !view.gesture) view.crop.box = null;
  const source = brushSource(found).layer;
  const other = tool === "retouch" ? source : compared(found).layer;
  const shown = overlay && tool === "result" && (overlay !== "confidence" || found.confidence)
    ? { run: found.run, name: overlay, least: found.least_level } : null;
  const mode = !other ? "single" : side ? "side" : compares ? compareMode : "single";
  // The brush comes first: what is drawn depends on it.
  view.brush = tool !== "retouch" ? null
    : { frame: erasing ? null : source, radius: 1, softness: 0, opacity: 1 };
  view.picking = picking && tool === "retouch";
  view.regions.show(tool === "result" && get().outlines ? found.regions : NONE);
  view.show({ picture: found, main: fusedLayer(found), other, mode, overlay: shown });
  if (begins) view.fit(); // the whole picture, to draw the rectangle on
  setBrush();
  const run = `${get().stackId}/${found.run}`;
  if (run !== wasRun) {
    wasRun = run;
    byId("probe").hidden = true;
  }
  byId("overlay").querySelector("[value=confidence]").disabled = !found.confidence;
  byId("overlay").value = overlay ?? "";
  byId("opacity").hidden = !overlay;
  byId("undo").disabled = !found.strokes;
  byId("redo").disabled = !found.undone;
  byId("eraser").setAttribute("aria-pressed", erasing);
  byId("pick").setAttribute("aria-pressed", picking);
  byId("pane").setAttribute("aria-pressed", sourcePane);
  byId("side").setAttribute("aria-pressed", compareMode === "side");
  byId("difference").setAttribute("aria-pressed", compareMode === "difference");
  byId("tools").classList.toggle("wipes", compareMode === "wipe");
  drawRegions(found);
  drawChoices(found);
  drawTags(found);
  drawLegend(shown && overlay, found);
  if (tool === "3d") showScene(found);
}

/** What is told of the regions where something moved, and which frame fills the one that was clicked. */
function drawRegions(found) {
  const { tool, outlines, region } = get();
  const count = found.regions.length;
  byId("regions").hidden = !count;
  byId("regions").textContent = `Moved: ${plural(count, "region")}`;
  byId("regions").setAttribute("aria-pressed", outlines);
  const told = tool === "result" && outlines && region?.run === found.run && region.index < count;
  byId("region").textContent = told ? `Region ${region.index + 1}: ${found.filled[region.index]}` : "";
  byId("history").hidden = tool === "result" && !count;
}

function drawChoices(found) {
  fillGroups(byId("source"), sources(found), brushSource(found).key);
  const chosen = compared(found).key;
  fillGroups(byId("other"), comparable(found), chosen);
  byId("source").title = brushSource(found).name;
  byId("other").title = compared(found).name;
  const [kind, method] = chosen.split(" ");
  byId("wipe-left").textContent = { frame: "Frame", plain: "Before", method }[kind] ?? compared(found).name;
  byId("wipe-right").textContent = resultName(found);
  const work = kind === "method" ? making(found, method) : null;
  byId("making").hidden = !work;
  byId("making-text").textContent = !work ? ""
    : work.before ? `${method}: queued, ${plural(work.before, "job")} ahead` : `Fusing by ${method} …`;
}

/** What the result is called where it is shown. */
function resultName({ draft, number, strokes }) {
  if (draft) return "Draft";
  if (results(get()).filter(one => !one.draft).length > 1) return `Version ${number}`;
  return strokes ? "Retouched" : "Fused";
}

function drawTags(found) {
  const { tool, erasing, compareMode } = get();
  let left = "";
  if (tool === "compare" && compared(found).layer)
    left = compareMode === "difference" ? `Difference from ${compared(found).name}` : compared(found).name;
  else if (tool === "retouch" && erasing) left = "Restores the fused result";
  else if (tool === "retouch") left = `Source: ${brushSource(found).name}`;
  else if (tool === "3d") left = capital(found.near_end ?? "");
  byId("left").textContent = left;
  byId("right").textContent = tool === "3d" ? "" : resultName(found);
  tellHint(hint(found), isFirstHint());
}

const hintsRead = () => (localStorage.getItem(HINTS) ?? "").split(" ");

/** Tells what to do; a hint for those who use a tool for the first time can be dismissed for good. */
function tellHint(text, canDismiss = false) {
  byId("hint").textContent = canDismiss && hintsRead().includes(get().tool) ? "" : text;
  byId("close-hint").hidden = !canDismiss;
  return "";
}

/** Whether a hint is on the tool in general, and not on what was begun with it. */
const isFirstHint = () => ["compare", "retouch"].includes(get().tool) && !get().picking;

/** What to do next, for those who do it for the first time. */
function hint({ strokes, undone }) {
  const { tool, erasing, picking, sourcePane, cropping, crop, compareMode } = get();
  if (tool === "result" && cropping && !crop) return "Drag a rectangle on the picture";
  if (tool === "3d") return sceneLoads ? "Loading the 3D view …" : "";
  if (tool === "compare" && compareMode === "wipe" && !hasCompared)
    return "Drag the line, or hold Space to see the other picture alone";
  if (tool !== "retouch") return "";
  if (picking) return "Click where a flaw is: the frame that is sharpest there becomes the source";
  if (strokes || undone || erasing) return "";
  const how = sourcePane ? "Paint on the result with what the source shows; drag the source to move both"
    : "Paint with what the source shows; with Shift, drag to move the picture";
  return `${how}. Other sources: the frames below, or Pick sharpest.`;
}

function drawLegend(overlay, found) {
  byId("legend").hidden = !overlay;
  if (!overlay) return;
  const words = overlay === "focus" ? [found.names[0], found.names.at(-1)] : ["sure", "unsure"];
  const [bar, ...ends] = byId("legend").children;
  bar.className = `${overlay}-legend`;
  ends.forEach((end, k) => (end.textContent = words[k]));
}

/** The user knows how to compare. */
function nowCompares() {
  hasCompared = true;
  if (get().tool === "compare") tellHint("");
}

async function showScene(found) {
  const wanted = `${get().stackId}/${found.run}/${found.stamp}`;
  if (sceneOf === wanted) return scene.draw();
  sceneOf = wanted;
  sceneLoads = true;
  drawTags(found);
  try {
    await scene.show(await bytes(ofStack(`/surface/${found.run}`)));
  } catch (error) {
    sceneOf = null;
    tell(error);
  } finally {
    sceneLoads = false;
    draw();
  }
  return undefined;
}

// The brush

function setBrush() {
  // The slider sets the size as a share of the picture, so that it suits pictures of any size.
  if (!view.brush || !view.picture) return;
  const longest = Math.max(view.picture.width, view.picture.height);
  const share = Number(byId("radius").value) / 100;
  view.brush.radius = Math.round(longest * 0.1 * share ** 2 * 10) / 10 + 2;
  view.brush.softness = Number(byId("softness").value) / 100;
  view.brush.opacity = Number(byId("strength").value) / 100;
  const told = `${Math.round(2 * view.brush.radius)} px`;
  byId("radius").setAttribute("aria-valuetext", told);
  byId("radius-told").value = told;
  for (const id of ["softness", "strength"]) byId(`${id}-told`).value = `${byId(id).value} %`;
  view.draw();
}

async function stroke(painted) {
  const found = version();
  const source = painted.frame?.source;
  const record = {
    ...(source ? { picture: source }
      : { frame: painted.frame === null ? null : found.names[Number(painted.frame.name)] }),
    radius: painted.radius, softness: painted.softness, points: painted.points,
    ...(painted.opacity < 1 && { opacity: painted.opacity }),
    ...(painted.shares && { [painted.presses === "size" ? "sizes" : "opacities"]: painted.shares }),
  };
  Object.assign(painted, { sent: true, until: performance.now() + 30000 });
  const done = await painting("POST", record);
  if (done) painted.done = true;
  else view.unsettled = view.unsettled.filter(one => one !== painted);
  settled(done);
}

/** Shows what a change of the strokes has changed. */
function settled(done) {
  if (done && done.run === version()?.run) view.changed(done.boxes, done.stamp);
  view.draw();
}

async function sharpest(x, y) {
  try {
    const { index } = await ask("GET", ofStack(`/sharpest/${version().run}/${x}/${y}`));
    set({ frame: index, source: null, erasing: false, picking: false });
  } catch (error) {
    tell(error);
  }
}

/** Goes to the frame before or after, of those that are looked at, compared or painted with. */
function stepSource(way) {
  const found = version();
  const { frameId, tool } = get();
  const among = (at, count) => Math.min(Math.max(at, 0), count - 1);
  if (frameId !== null) {
    const all = frames(get()).map(one => one.id);
    set({ frameId: all[among(all.indexOf(frameId) + way, all.length)] });
  } else if (tool === "compare" || tool === "retouch") {
    const index = among(frameIndex(found) + way, found.names.length);
    set({ frame: index, source: null, erasing: false,
      ...(tool === "compare" && { other: { kind: "frame" } }) });
  } else choose(idOf(found.names[frameIndex(found)]));
}

// Buttons and keys

export function use(tool) {
  set({ tool, frameId: null, picking: false, cropping: tool === "result" && byId("crop").value === "free" });
}

function buttons() {
  for (const button of allOf("button[data-tool]"))
    button.onclick = () => use(button.dataset.tool);
  byId("wipe").oninput = event => {
    view.wipe = 1 - event.target.value / 100;
    nowCompares();
    view.draw();
  };
  byId("other").onchange = event => {
    const [kind, rest] = event.target.value.split(/ (.*)/);
    if (kind === "frame") set({ frame: Number(rest), other: { kind } });
    else if (kind === "method") compareMethod(rest);
    else set({ other: { kind, run: rest } });
  };
  byId("cancel-method").onclick = () => cancelMethod(get().other.method);
  byId("source").onchange = event => {
    const [kind, index] = event.target.value.split(" ");
    if (kind === "frame") set({ frame: Number(index), source: null, erasing: false });
    else set({ source: kind, erasing: false });
  };
  for (const mode of /** @type {const} */ (["side", "difference"]))
    byId(mode).onclick = () => set({ compareMode: get().compareMode === mode ? "wipe" : mode });
  byId("pane").onclick = () => set({ sourcePane: !get().sourcePane });
  byId("overlay").onchange = event => {
    set({ overlay: event.target.value || null });
    byId("opacity").value = event.target.value === "confidence" ? 90 : 60;
    byId("opacity").oninput();
  };
  byId("opacity").oninput = () => {
    view.opacity = byId("opacity").value / 100;
    view.draw();
  };
  byId("fit").onclick = () => view.fit(view.fitted && !view.enlarged && view.scale >= 1);
  byId("actual-size").onclick = () => view.zoom(1, ...(view.mark ? view.spot(...view.mark) : []));
  byId("radius").oninput = byId("softness").oninput = byId("strength").oninput = setBrush;
  view.pressure = byId("pressure").value = localStorage.getItem("pressure") ?? "size";
  byId("pressure").onchange = () => {
    view.pressure = byId("pressure").value;
    localStorage.setItem("pressure", view.pressure);
  };
  byId("eraser").onclick = () => set({ erasing: !get().erasing, picking: false });
  byId("pick").onclick = () => set({ picking: !get().picking });
  byId("undo").onclick = async () => settled(await painting("DELETE"));
  byId("redo").onclick = async () => settled(await painting("POST", undefined, "/redo"));
  byId("regions").onclick = () => set({ outlines: !get().outlines });
  byId("close-frame").onclick = closeFrame;
  byId("close-probe").onclick = () => {
    closeProbe();
    byId("picture").focus({ preventScroll: true }); // the button is gone
  };
  byId("close-hint").onclick = () => {
    localStorage.setItem(HINTS, [...hintsRead(), get().tool].join(" "));
    tellHint("");
    byId("picture").focus({ preventScroll: true });
  };
}

/** Whether Space is for the page: it is held to see the other picture, unless it presses a control. */
const isFree = target => target === document.body || Boolean(target.closest("#viewer canvas"))
  || (isClicked(target) && !target.closest(`dialog, ${FIELDS}`));

const inField = event => event.target.closest?.(`select, dialog, ${FIELDS}`);

/** Whether a key was taken. */
export function key(event) {
  const found = version();
  const { tool, frameId } = get();
  const shows = found || frameId !== null;
  if (event.key === " " && found && view.other && !byId("picture").hidden && isFree(event.target)) {
    flicker(true);
    return true;
  }
  if (!shows || inField(event)) return false;
  const letter = event.key.toLowerCase();
  const retouches = tool === "retouch" && frameId === null;
  const undoes = retouches || (frameId === null && tool === "result" && found?.regions.length);
  if ((letter === "z" || letter === "y") && !event.altKey && undoes)
    byId(letter === "y" || event.shiftKey ? "redo" : "undo").click();
  else if (event.ctrlKey || event.metaKey || event.altKey) return false;
  else if (letter === "f") byId("fit").click();
  else if (letter === "1") byId("actual-size").click();
  else if (event.key === "Escape") escape();
  else if (retouches && "[]".includes(letter)) {
    byId("radius").value = Number(byId("radius").value) + (letter === "]" ? 4 : -4);
    setBrush();
  } else if (retouches && letter === "e") byId("eraser").click();
  else if (retouches && letter === "s") byId("pick").click();
  else if (found && tool === "compare" && letter === "d" && frameId === null) byId("difference").click();
  else if (found && "crv3".includes(letter))
    use({ c: "compare", r: found.draft ? tool : "retouch", v: "result", 3: "3d" }[letter]);
  else if (letter === "," || letter === ".")
    stepSource(letter === "," ? -1 : 1);
  else return false;
  return true;
}

/** Whether the release of a key was taken. */
export function keyUp(event) {
  const ends = event.key === " " && view.flicker;
  if (ends) flicker(false);
  return ends;
}

function flicker(on) {
  if (view.flicker === on) return;
  view.flicker = on;
  byId("right").classList.toggle("away", on);
  if (on) byId("left").textContent = get().frameId === null ? otherName() : resultName(version());
  if (on) nowCompares();
  view.draw();
  if (!on) draw();
}

function escape() {
  if (get().frameId !== null && byId("probe").hidden) closeFrame();
  closeProbe();
}

/** Back to the result, or to the grid of all frames before there is one. */
const closeFrame = () => set({ frameId: null, grid: !version() });

function closeProbe() {
  byId("probe").hidden = true;
  view.mark = null;
  view.draw();
}

