// The page: frames, work, the view of the result, export.

import { byId as $, element } from "./elements.js";
import { browse } from "./folders.js";
import { fillForm, values } from "./options.js";
import { address, ask, begin, bytes, droppedFiles, session, upload } from "./server.js";
import { showFrames } from "./sheet.js";
import { PictureView } from "./view.js";
import { View3D } from "./view3d.js";

const BUSY = 300; // ms between two requests of the state while something is going on
const IDLE = 20000; // and otherwise, so that the session is kept
let state = null;
let tool = "compare";
let stages = new Map();
let uploading = null; // [bytes sent, bytes in all]
let errors = [];
let brushFrame = null; // index of the frame that the brush shows, null for the eraser
let sceneVersion = null; // of the result that the 3D view shows
let probed = null; // the pixel whose shares are to be requested next
let requesting = false; // whether shares are being requested
let bits = "16"; // the choice before JPEG, which has 8
let timer = 0;

const view = new PictureView($("picture"), {
  probe, stroke,
  wiped: share => { $("wipe").value = share * 100; showTags(); },
  zoomed: scale => {
    $("zoom").value = `${(scale * 100).toFixed(scale < 0.1 ? 1 : 0)} %`;
    setRadius();
  },
});
const scene = new View3D($("scene"));

// State

async function refresh() {
  clearTimeout(timer);
  try {
    update(await ask("GET", "/state"));
  } catch (error) {
    showError(error);
  }
  const busy = state && (state.work || state.examining || uploading);
  timer = setTimeout(refresh, busy ? BUSY : IDLE);
}

async function act(method, path, body) {
  try {
    update(await ask(method, path, body));
    refresh();
  } catch (error) {
    showError(error);
  }
}

function showError(error) {
  const sentence = error.message || String(error);
  if (!errors.includes(sentence)) errors.push(sentence);
  showErrors();
}

function showErrors() {
  const all = [...errors, ...(state ? state.refused : [])];
  if (state && state.failure) all.push(state.failure);
  const messages = $("messages");
  if (messages.dataset.shown === JSON.stringify(all)) return;
  messages.dataset.shown = JSON.stringify(all);
  messages.replaceChildren(...all.map(sentence => element("div", sentence)));
}

function update(found) {
  const before = state;
  state = found;
  const { frames, result, work } = state;
  const filled = frames.length || state.examining || uploading || state.refused.length
    || errors.length;
  document.body.dataset.stage = result ? "result" : filled ? "frames" : "empty";
  const used = frames.filter(frame => frame.used).length;
  $("clear").hidden = $("more").hidden = !filled;
  $("about").textContent = about(frames, used);
  $("go").textContent = `Fuse ${used} frame${used === 1 ? "" : "s"}${result ? " again" : ""}`;
  $("go").disabled = used < 2 || state.examining || Boolean(uploading);
  $("go").hidden = Boolean(work);
  showWork(work);
  showErrors();
  if (!before || JSON.stringify(before.frames) !== JSON.stringify(frames)
    || Boolean(before.result) !== Boolean(result)) {
    showFrames($("sheet"), frames, { arrange, choose });
    markFrame();
  }
  if (result) showResult(before && before.result);
  else sceneVersion = null;
}

function about(frames, used) {
  if (uploading)
    return `Uploading ${Math.round(100 * uploading[0] / Math.max(uploading[1], 1))} %`;
  if (state.examining) return `Reading the frames: ${frames.length} so far`;
  if (!frames.length) return "";
  const { width, height } = frames[0];
  if (frames.length === 1) return `1 frame of ${width} × ${height}: add at least one more`;
  const some = used < frames.length ? `${used} of ${frames.length}` : used;
  return `${some} frames of ${width} × ${height}, in focus order`;
}

function showWork(work) {
  $("work").hidden = !work;
  if (!work) {
    stages = new Map();
    return;
  }
  const words = {
    waiting: work.before ? `Waiting: ${work.before} ahead of you` : "Starting",
    "reading frames": "Reading", aligning: "Aligning", resampling: "Resampling",
    fusing: "Fusing", slabs: "Fusing slabs",
  };
  const name = (work.part ? "Draft: " : "") + (words[work.stage] || work.stage);
  for (const stage of stages.values()) stage.done = stage.total;
  stages.set(work.stage === "waiting" ? "waiting" : name, { name, ...work });
  if (work.stage !== "waiting") stages.delete("waiting");
  // The stages of a finished draft are shown as one line.
  const lines = [...stages.values()].filter(stage => work.part || !stage.part);
  if (!work.part && [...stages.values()].some(stage => stage.part))
    lines.unshift({ name: "Draft", done: 1, total: 1 });
  $("work").querySelector("ul").replaceChildren(...lines.map(stage => {
    const line = element("li", stage.name, { className: stage.done >= stage.total ? "done" : "" });
    if (stage.total > 1) line.append(element("span", `${stage.done} of ${stage.total}`));
    if (stage.total) line.append(element("progress", "", { max: stage.total, value: stage.done }));
    return line;
  }));
}

// Frames

function arrange(order, toggled) {
  const excluded = state.frames.filter(one => one.used === (one.id === toggled));
  act("POST", "/frames", { order, excluded: excluded.map(one => one.id) });
}

function choose(name) {
  const index = state.result ? state.result.names.indexOf(name) : -1;
  if (index < 0) return;
  view.frame = index;
  brushFrame = index;
  $("eraser").setAttribute("aria-pressed", false);
  setBrush();
  markFrame();
  view.draw();
}

function markFrame() {
  const name = state.result && state.result.names[view.frame];
  for (const item of $("sheet").children)
    if (item.classList.toggle("chosen", item.querySelector("img").alt === name))
      item.parentElement.scrollLeft = item.offsetLeft - item.parentElement.clientWidth / 2;
  showTags();
}

async function add(files) {
  const strokes = files.filter(([file]) => /\.json$/i.test(file.name));
  files = files.filter(one => !strokes.includes(one));
  errors = [];
  for (const [file] of strokes) await replay(file);
  if (!files.length) return;
  uploading = [0, 1];
  update(state);
  refresh();
  const failed = await upload(files, (done, total) => (uploading = [done, total]));
  uploading = null;
  failed.forEach(showError);
  refresh();
}

// Result

function showResult(before) {
  const { result } = state;
  if (!before || before.run !== result.run) {
    if (!before) view.frame = 0;
    view.show(result, (...at) => address(`/tile/${result.run}/${at.join("/")}`));
    $("probe").hidden = true;
    $("overlay").querySelector("[value=confidence]").disabled = !result.confidence;
    sceneVersion = null;
    if (tool === "3d") showScene();
    if (brushFrame !== null) brushFrame = Math.min(brushFrame, result.names.length - 1);
    if (view.overlay === "confidence" && !result.confidence) $("overlay").value = view.overlay = "";
    showLegend();
    markFrame();
  }
  $("export").hidden = result.draft;
  $("undo").disabled = !result.strokes;
  document.querySelector("button[data-tool=retouch]").disabled = result.draft;
  if (result.draft && tool === "retouch") use("compare");
  $("crop-option").hidden = !result.area || same(result.area, [0, result.height, 0, result.width]);
  const offered = {
    focus: true, confidence: result.confidence, alignment: Boolean(result.area),
    strokes: result.strokes > 0, slabs: result.slabs,
  };
  for (const link of document.querySelectorAll(".links a")) {
    link.hidden = !offered[link.dataset.what];
    link.href = address(`/export?what=${link.dataset.what}`);
  }
  const heading = result.draft ? "Draft at a quarter of the size."
    : `Fused in ${result.seconds} s.`;
  const notes = $("notes").querySelector("ul");
  notes.replaceChildren(...[heading, ...result.notes].map(note => element("li", note)));
}

const same = (a, b) => a.every((value, k) => value === b[k]);

function showTags() {
  const { result } = state || {};
  if (!result) return;
  const wiping = tool === "compare" && view.wipe > 0;
  $("left").textContent = wiping ? result.names[view.frame]
    : tool === "retouch" ? brushFrame === null ? "eraser" : `brush: ${result.names[brushFrame]}` : "";
  const whole = result.draft ? "draft" : result.strokes ? "fused, retouched" : "fused";
  $("right").textContent = tool === "3d" || view.wipe === 1 && wiping ? "" : whole;
}

function showLegend() {
  const legend = $("legend");
  legend.hidden = tool === "3d" || !view.overlay;
  legend.firstElementChild.className = `${view.overlay}-legend`;
  const { names } = (state && state.result) || { names: [""] };
  const ends = view.overlay === "focus" ? [names[0], names.at(-1)] : ["uncertain", "certain"];
  legend.querySelectorAll("span").forEach((span, k) => (span.textContent = ends[k]));
}

function use(name) {
  tool = name;
  for (const button of document.querySelectorAll("button[data-tool]"))
    button.setAttribute("aria-pressed", button.dataset.tool === name);
  $("tools").dataset.tool = name;
  $("picture").hidden = name === "3d";
  $("scene").hidden = name !== "3d";
  $("probe").hidden = true;
  showLegend();
  view.mark = null;
  if (name === "retouch" && brushFrame === null) choose(state.result.names[view.frame]);
  setBrush();
  if (name === "3d") showScene();
  else view.resize();
  showTags();
}

function setBrush() {
  const softness = Number($("softness").value) / 100;
  view.brush = tool === "retouch" ? { frame: brushFrame, softness, radius: 1 } : null;
  setRadius();
}

function setRadius() {
  // The slider sets the size on the screen at "Fit", so that it suits pictures of any size.
  if (!view.brush || !view.picture) return;
  const side = Math.max(view.picture.width, view.picture.height);
  const share = Number($("radius").value) / 100;
  view.brush.radius = Math.round(side * 0.1 * share ** 2 * 10) / 10 + 2;
  view.draw();
}

async function stroke(painted) {
  const { result } = state;
  const record = {
    frame: painted.frame === null ? null : result.names[painted.frame],
    radius: painted.radius, softness: painted.softness, points: painted.points,
  };
  painted.sent = true;
  painted.until = performance.now() + 4000;
  await painting("POST", record);
}

async function replay(file) {
  try {
    if (!state.result || state.result.draft)
      throw new Error(`${file.name} cannot be painted yet: fuse the frames first`);
    let record = null;
    try {
      record = JSON.parse(await file.text());
    } catch { /* reported below */ }
    if (!record || !Array.isArray(record.strokes))
      throw new Error(`${file.name} is not a file of strokes: choose one exported from this page`);
    await painting("POST", { ...record, name: file.name });
  } catch (error) {
    showError(error);
  }
}

async function painting(method, body, path = "/strokes") {
  try {
    const { boxes, version } = await ask(method, path, body);
    view.changed(boxes, version);
    sceneVersion = null;
  } catch (error) {
    view.unsettled = [];
    showError(error);
  }
  await refresh();
  showTags();
  view.draw();
}

async function probe(x, y) {
  const card = $("probe");
  try {
    const pixel = await ask("GET", `/pixel/${x}/${y}`);
    if (!isMarked(pixel)) return; // another pixel was clicked meanwhile
    showProbe(pixel);
    card.hidden = false;
    probed = pixel;
    if (!requesting) await requestShares();
  } catch (error) {
    card.hidden = true;
    showError(error);
  }
}

const isMarked = pixel => view.mark && view.mark[0] === pixel.x && view.mark[1] === pixel.y;

async function requestShares() {
  // One request at a time, for the latest click: the shares take a while on a busy machine, and
  // the next click must not wait for one of the six connections that a browser has.
  requesting = true;
  try {
    while (probed) {
      const pixel = probed;
      probed = null;
      const { shares } = await ask("GET", `/mixture/${pixel.x}/${pixel.y}`);
      if (isMarked(pixel)) showProbe(pixel, shares);
    }
  } finally {
    requesting = false;
  }
}

function showProbe(pixel, shares) {
  const { stroke: painted } = pixel;
  const retouched = painted && painted.frame !== null && painted.share > 0.5;
  const first = shares ? shares[0] : [pixel.frame, pixel.share];
  const mixed = shares ? first[1] < 0.9 : pixel.mixed;
  const title = retouched ? painted.frame : mixed ? `Mixture, mostly ${first[0]}` : first[0];
  const parts = [element("b", title), element("small",
    `${retouched ? "retouched; " : ""}pixel ${pixel.x}, ${pixel.y}`)];
  if (shares)
    for (const [name, share] of shares.slice(0, 4)) {
      const line = element("div");
      line.append(element("span", name), element("span", `${Math.round(100 * share)} %`),
        element("meter", "", { value: share }));
      parts.push(line);
    }
  $("probe").replaceChildren(...parts);
}

async function showScene() {
  const version = `${state.result.run}/${state.version}`;
  if (sceneVersion === version) return scene.draw();
  sceneVersion = version;
  try {
    await scene.show(await bytes("/surface"));
  } catch (error) {
    sceneVersion = null;
    showError(error);
  }
}

function confirmLoss() {
  const strokes = state.result ? state.result.strokes : 0;
  return !strokes || confirm(`This discards the picture and its ${strokes} `
    + `stroke${strokes === 1 ? "" : "s"}. Continue?`);
}

function open(path) {
  $("server").close();
  if (!confirmLoss()) return;
  errors = [];
  act("POST", "/open", { path });
}

// Input

function listen() {
  $("choose").onclick = $("more").onclick = () => $("files").click();
  $("files").onchange = event => {
    add([...event.target.files].map(file => [file, ""]));
    event.target.value = "";
  };
  $("browse").onclick = () => browse("", { open, showError }).catch(showError);
  $("browse").hidden = !session.root;
  $("load").onclick = () => $("strokes").click();
  $("strokes").onchange = event => {
    errors = [];
    [...event.target.files].forEach(replay);
    event.target.value = "";
  };
  $("clear").onclick = () => {
    if (!confirmLoss()) return;
    errors = [];
    act("DELETE", "/frames");
  };
  $("go").onclick = () => {
    const chosen = values();
    if (!chosen) return;
    errors = [];
    stages = new Map();
    act("POST", "/work", chosen);
  };
  $("cancel").onclick = () => act("DELETE", "/work");
  for (const button of document.querySelectorAll("button[data-tool]"))
    button.onclick = () => use(button.dataset.tool);
  $("wipe").oninput = event => {
    view.wipe = event.target.value / 100;
    showTags();
    view.draw();
  };
  $("overlay").onchange = event => {
    view.overlay = event.target.value || null;
    // Multiplying by white changes nothing, so the confidence is opaque at first.
    $("opacity").value = view.overlay === "confidence" ? 100 : 60;
    $("opacity").hidden = !view.overlay;
    $("opacity").oninput();
    showLegend();
  };
  $("opacity").oninput = () => {
    view.opacity = $("opacity").value / 100;
    view.draw();
  };
  $("fit").onclick = () => view.fit();
  $("actual-size").onclick = () => view.zoom(1 * view.pixels, ...(view.mark ? view.spot(...view.mark) : []));
  $("radius").oninput = $("softness").oninput = setBrush;
  $("eraser").onclick = () => {
    brushFrame = brushFrame === null ? view.frame : null;
    $("eraser").setAttribute("aria-pressed", brushFrame === null);
    setBrush();
    showTags();
  };
  $("undo").onclick = () => painting("DELETE", undefined);
  $("format").onchange = () => {
    const { disabled } = $("bits");
    $("bits").disabled = $("format").value === "jpeg";
    if ($("bits").disabled && !disabled) [bits, $("bits").value] = [$("bits").value, "8"];
    else if (disabled && !$("bits").disabled) $("bits").value = bits;
  };
  $("save").onclick = async () => {
    const wanted = {
      what: "picture", format: $("format").value, bits: $("bits").value,
      crop: $("crop").checked && !$("crop-option").hidden ? "1" : "0",
    };
    const link = element("a", "", { href: address(`/export?${new URLSearchParams(wanted)}`) });
    link.download = "";
    link.click();
  };
  addEventListener("keydown", event => {
    const chord = event.ctrlKey || event.metaKey || event.altKey;
    const key = event.key.toLowerCase();
    if (!state || !state.result || event.target.closest("select, dialog")) return;
    if (key === "z" && !event.altKey && tool === "retouch") $("undo").click();
    else if (chord) return;
    else if (key === "f") view.fit();
    else if (event.key === "Escape") {
      $("probe").hidden = true;
      view.mark = null;
      view.draw();
    }
    else if (key === "1") $("actual-size").click();
    else if (tool === "retouch" && "[]".includes(key)) {
      $("radius").value = Number($("radius").value) + (key === "]" ? 4 : -4);
      setBrush();
    } else return;
    event.preventDefault();
  });
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

try {
  await begin();
  fillForm(session.form, $("options"), $("more-options"));
  listen();
  use("compare");
  await refresh();
  document.body.dataset.ready = "yes";
} catch (error) {
  showError(error);
}
