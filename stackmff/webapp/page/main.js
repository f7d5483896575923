// The page: frames, work, the look at the result, and what is taken home.

import { browse } from "./folders.js";
import { element, sheet } from "./sheet.js";
import { address, ask, begin, bytes, dropped, send, session } from "./server.js";
import { Relief } from "./view3d.js";
import { View } from "./view.js";

const $ = id => document.getElementById(id);
const QUICK = 300; // ms between two looks at the state while something goes on
const SLOW = 20000; // and otherwise, so that the session is kept
let state = null;
let tool = "compare";
let stages = new Map();
let sending = null;
let errors = [];
let brushed = null; // index of the frame that the brush takes, null for the mixture
let reliefOf = null;
let clicked = null; // what is told of the pixel whose mixture is to be asked for
let mixing = false;
let bits = "16"; // that were chosen before JPEG, which has 8
let timer = 0;

const view = new View($("picture"), {
  probe, stroke,
  wiped: share => { $("wipe").value = share * 100; tags(); },
  zoomed: scale => { $("zoom").value = `${(scale * 100).toFixed(scale < 0.1 ? 1 : 0)} %`; ring(); },
});
const relief = new Relief($("relief"));

// State

async function refresh() {
  clearTimeout(timer);
  try {
    take(await ask("GET", "/state"));
  } catch (error) {
    say(error);
  }
  const busy = state && (state.work || state.looking || sending);
  timer = setTimeout(refresh, busy ? QUICK : SLOW);
}

async function act(method, path, body) {
  try {
    take(await ask(method, path, body));
    refresh();
  } catch (error) {
    say(error);
  }
}

function say(error) {
  const sentence = error.message || String(error);
  if (!errors.includes(sentence)) errors.push(sentence);
  showErrors();
}

function showErrors() {
  const all = [...errors, ...(state ? state.refused : [])];
  if (state && state.failure) all.push(state.failure);
  const said = $("said");
  if (said.dataset.shown === JSON.stringify(all)) return;
  said.dataset.shown = JSON.stringify(all);
  said.replaceChildren(...all.map(sentence => element("div", sentence)));
}

function take(told) {
  const before = state;
  state = told;
  const { frames, result, work } = state;
  const filled = frames.length || state.looking || sending || state.refused.length || errors.length;
  document.body.dataset.stage = result ? "result" : filled ? "frames" : "empty";
  const used = frames.filter(frame => frame.used).length;
  $("clear").hidden = $("more").hidden = !filled;
  $("about").textContent = about(frames, used);
  $("go").textContent = `Fuse ${used} frame${used === 1 ? "" : "s"}${result ? " again" : ""}`;
  $("go").disabled = used < 2 || state.looking || Boolean(sending);
  $("go").hidden = Boolean(work);
  showWork(work);
  showErrors();
  if (!before || JSON.stringify(before.frames) !== JSON.stringify(frames)
    || Boolean(before.result) !== Boolean(result)) {
    sheet($("sheet"), frames, { arrange, choose });
    marked();
  }
  if (result) showResult(before && before.result);
  else reliefOf = null;
}

function about(frames, used) {
  if (sending) return `Sending ${Math.round(100 * sending[0] / Math.max(sending[1], 1))} %`;
  if (state.looking) return `Looking at the frames: ${frames.length} so far`;
  if (!frames.length) return "";
  const { width, height } = frames[0];
  if (frames.length === 1) return `1 frame of ${width} × ${height}: add another one`;
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
    waiting: work.before ? `Waiting, ${work.before} before you` : "Starting",
    "reading frames": "Reading", aligning: "Aligning", resampling: "Moving frames",
    fusing: "Fusing", slabs: "Slabs",
  };
  const name = (work.part ? "Draft: " : "") + (words[work.stage] || work.stage);
  for (const stage of stages.values()) stage.done = stage.total;
  stages.set(work.stage === "waiting" ? "waiting" : name, { name, ...work });
  if (work.stage !== "waiting") stages.delete("waiting");
  // The stages of a draft are one line once it is there.
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
  const out = state.frames.filter(one => one.used === (one.id === toggled)).map(one => one.id);
  act("POST", "/frames", { order, left_out: out });
}

function choose(name) {
  const index = state.result ? state.result.names.indexOf(name) : -1;
  if (index < 0) return;
  view.frame = index;
  brushed = index;
  $("eraser").setAttribute("aria-pressed", false);
  brush();
  marked();
  view.draw();
}

function marked() {
  const name = state.result && state.result.names[view.frame];
  for (const item of $("sheet").children)
    if (item.classList.toggle("chosen", item.querySelector("img").alt === name))
      item.parentElement.scrollLeft = item.offsetLeft - item.parentElement.clientWidth / 2;
  tags();
}

async function add(files) {
  const strokes = files.filter(([file]) => /\.json$/i.test(file.name));
  files = files.filter(one => !strokes.includes(one));
  errors = [];
  for (const [file] of strokes) await replay(file);
  if (!files.length) return;
  sending = [0, 1];
  take(state);
  refresh();
  const failed = await send(files, (done, total) => (sending = [done, total]));
  sending = null;
  failed.forEach(say);
  refresh();
}

// Look

function showResult(before) {
  const { result } = state;
  if (!before || before.run !== result.run) {
    if (!before) view.frame = 0;
    view.show(result, (...at) => address(`/tile/${result.run}/${at.join("/")}`));
    $("probe").hidden = true;
    $("overlay").querySelector("[value=confidence]").disabled = !result.confidence;
    reliefOf = null;
    if (tool === "relief") showRelief();
    if (brushed !== null) brushed = Math.min(brushed, result.names.length - 1);
    if (view.overlay === "confidence" && !result.confidence) $("overlay").value = view.overlay = "";
    legend();
    marked();
  }
  $("take").hidden = result.draft;
  $("undo").disabled = !result.strokes;
  document.querySelector("button[data-tool=retouch]").disabled = result.draft;
  if (result.draft && tool === "retouch") use("compare");
  $("cut").hidden = !result.area || same(result.area, [0, result.height, 0, result.width]);
  const given = {
    focus: true, confidence: result.confidence, alignment: Boolean(result.area),
    strokes: result.strokes > 0, slabs: result.slabs,
  };
  for (const link of document.querySelectorAll(".links a")) {
    link.hidden = !given[link.dataset.what];
    link.href = address(`/take?what=${link.dataset.what}`);
  }
  const seconds = result.draft ? "A draft, at a quarter of the size."
    : `Fused in ${result.seconds} s.`;
  const notes = $("notes").querySelector("ul");
  notes.replaceChildren(...[seconds, ...result.notes].map(note => element("li", note)));
}

const same = (a, b) => a.every((value, k) => value === b[k]);

function tags() {
  const { result } = state || {};
  if (!result) return;
  const wiping = tool === "compare" && view.wipe > 0;
  $("left").textContent = wiping ? result.names[view.frame]
    : tool === "retouch" ? brushed === null ? "eraser" : `brush: ${result.names[brushed]}` : "";
  const whole = result.draft ? "draft" : result.strokes ? "fused, retouched" : "fused";
  $("right").textContent = tool === "relief" || view.wipe === 1 && wiping ? "" : whole;
}

function legend() {
  const key = $("key");
  key.hidden = tool === "relief" || !view.overlay;
  key.firstElementChild.className = `${view.overlay}-key`;
  const { names } = (state && state.result) || { names: [""] };
  const ends = view.overlay === "focus" ? [names[0], names.at(-1)] : ["unsure", "sure"];
  key.querySelectorAll("span").forEach((span, k) => (span.textContent = ends[k]));
}

function use(name) {
  tool = name;
  for (const button of document.querySelectorAll("button[data-tool]"))
    button.setAttribute("aria-pressed", button.dataset.tool === name);
  $("tools").dataset.tool = name;
  $("picture").hidden = name === "relief";
  $("relief").hidden = name !== "relief";
  $("probe").hidden = true;
  legend();
  view.mark = null;
  if (name === "retouch" && brushed === null) choose(state.result.names[view.frame]);
  brush();
  if (name === "relief") showRelief();
  else view.resize();
  tags();
}

function brush() {
  const softness = Number($("softness").value) / 100;
  view.brush = tool === "retouch" ? { frame: brushed, softness, radius: 1 } : null;
  ring();
}

function ring() {
  // The slider is the size on the screen at "Fit", so that it suits pictures of any size.
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
      throw new Error(`${file.name} cannot be painted yet: fuse its frames first`);
    let record = null;
    try {
      record = JSON.parse(await file.text());
    } catch { /* said below */ }
    if (!record || !Array.isArray(record.strokes))
      throw new Error(`${file.name} is no file of strokes: save it from this page`);
    await painting("POST", { ...record, name: file.name });
  } catch (error) {
    say(error);
  }
}

async function painting(method, body, path = "/strokes") {
  try {
    const told = await ask(method, path, body);
    view.changed(told.boxes, told.version);
    reliefOf = null;
  } catch (error) {
    view.wet = [];
    say(error);
  }
  await refresh();
  tags();
  view.draw();
}

async function probe(x, y) {
  const card = $("probe");
  try {
    const told = await ask("GET", `/pixel/${x}/${y}`);
    if (!marks(told)) return; // there was another click meanwhile
    showProbe(told);
    card.hidden = false;
    clicked = told;
    if (!mixing) await mix();
  } catch (error) {
    card.hidden = true;
    say(error);
  }
}

const marks = told => view.mark && view.mark[0] === told.x && view.mark[1] === told.y;

async function mix() {
  // One at a time, the last click's: a mixture takes a while when the machine is at work, and the
  // next click must not wait for one of the six connections that a browser has.
  mixing = true;
  try {
    while (clicked) {
      const told = clicked;
      clicked = null;
      const { shares } = await ask("GET", `/mixture/${told.x}/${told.y}`);
      if (marks(told)) showProbe(told, shares);
    }
  } finally {
    mixing = false;
  }
}

function showProbe(told, shares) {
  const painted = told.stroke && told.stroke.frame !== null && told.stroke.share > 0.5;
  const first = shares ? shares[0] : [told.frame, told.share];
  const mixed = shares ? first[1] < 0.9 : told.mixed;
  const title = painted ? told.stroke.frame
    : mixed ? `A mixture, mostly ${first[0]}` : first[0];
  const parts = [element("b", title), element("small",
    `${painted ? "painted; " : ""}pixel ${told.x}, ${told.y}`)];
  if (shares)
    for (const [name, share] of shares.slice(0, 4)) {
      const line = element("div");
      line.append(element("span", name), element("span", `${Math.round(100 * share)} %`),
        element("meter", "", { value: share }));
      parts.push(line);
    }
  $("probe").replaceChildren(...parts);
}

async function showRelief() {
  const version = `${state.result.run}/${state.version}`;
  if (reliefOf === version) return relief.draw();
  reliefOf = version;
  try {
    await relief.show(await bytes("/relief"));
  } catch (error) {
    reliefOf = null;
    say(error);
  }
}

function sure() {
  const strokes = state.result ? state.result.strokes : 0;
  return !strokes || confirm(`The picture goes, and its ${strokes} strokes: go on?`);
}

function open(path) {
  $("server").close();
  if (!sure()) return;
  errors = [];
  act("POST", "/open", { path });
}

// Hands

function listen() {
  $("choose").onclick = $("more").onclick = () => $("files").click();
  $("files").onchange = event => {
    add([...event.target.files].map(file => [file, ""]));
    event.target.value = "";
  };
  $("browse").onclick = () => browse("", { open, say }).catch(say);
  $("browse").hidden = !session.root;
  $("load").onclick = () => $("strokes").click();
  $("strokes").onchange = event => {
    errors = [];
    [...event.target.files].forEach(replay);
    event.target.value = "";
  };
  $("clear").onclick = () => {
    if (!sure()) return;
    errors = [];
    act("DELETE", "/frames");
  };
  $("go").onclick = () => {
    errors = [];
    stages = new Map();
    act("POST", "/work", {
      align: $("align").value, exposure: Boolean($("exposure").value),
      prefer: $("prefer").value || null, near: $("near").value,
      slab: Number($("slab").value) || null,
    });
  };
  $("cancel").onclick = () => act("DELETE", "/work");
  for (const button of document.querySelectorAll("button[data-tool]"))
    button.onclick = () => use(button.dataset.tool);
  $("wipe").oninput = event => {
    view.wipe = event.target.value / 100;
    tags();
    view.draw();
  };
  $("overlay").onchange = event => {
    view.overlay = event.target.value || null;
    // What is sure is white and multiplies, so that it may be whole.
    $("opacity").value = view.overlay === "confidence" ? 100 : 60;
    $("opacity").hidden = !view.overlay;
    $("opacity").oninput();
    legend();
  };
  $("opacity").oninput = () => {
    view.opacity = $("opacity").value / 100;
    view.draw();
  };
  $("fit").onclick = () => view.fit();
  $("whole").onclick = () => view.zoom(1 * view.pixels, ...(view.mark ? view.spot(...view.mark) : []));
  $("radius").oninput = $("softness").oninput = brush;
  $("eraser").onclick = () => {
    brushed = brushed === null ? view.frame : null;
    $("eraser").setAttribute("aria-pressed", brushed === null);
    brush();
    tags();
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
      crop: $("crop").checked && !$("cut").hidden ? "1" : "0",
    };
    const link = element("a", "", { href: address(`/take?${new URLSearchParams(wanted)}`) });
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
    else if (key === "1") $("whole").click();
    else if (tool === "retouch" && "[]".includes(key)) {
      $("radius").value = Number($("radius").value) + (key === "]" ? 4 : -4);
      brush();
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
    add(await dropped(event.dataTransfer));
  });
}

try {
  await begin();
  listen();
  use("compare");
  await refresh();
  document.body.dataset.ready = "yes";
} catch (error) {
  say(error);
}
