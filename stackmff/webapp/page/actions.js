// What the user does: each action changes the server's state, the store, or both.

import { confirmed, plural } from "./elements.js";
import { AWAY, address, ask, enter, fetched, ofStack, session, sorted, upload } from "./server.js";
import { get, results, set, version } from "./store.js";

const PROJECT_SUFFIX = ".stackmff.zip";
const BUSY = 300; // ms between two requests of the state while something is going on
const IDLE = 4000; // and otherwise, so that the tabs of one session agree
const MOST_SAVED = 3; // lines on files that were downloaded
let timer = 0;
let round = 0;

// State

export async function refresh() {
  clearTimeout(timer);
  const own = ++round;
  const { token, stackId, stack } = get();
  if (token) {
    const query = new URLSearchParams();
    if (stackId !== null) query.set("stack", String(stackId));
    if (stack?.id === stackId) query.set("seen", String(stack.changes));
    try {
      const found = await ask("GET", address(`/state?${query}`));
      if (get().messages.some(one => one.text === AWAY)) dismiss(AWAY);
      if (own === round && get().token === token) update(found);
    } catch (error) {
      if (error.status === 404) home();
      tell(error);
    }
  }
  if (own !== round) return;
  clearTimeout(timer);
  timer = setTimeout(refresh, isBusy() ? BUSY : IDLE);
}

const isBusy = () => get().uploading || get().finding || get().waitsForFrames
  || get().stacks.some(one => one.work || one.examining || one.comparing.length);

function update({ stacks, stack, finding, told: found }) {
  const { stack: before, stackId } = get();
  const looked = get().finding;
  if (looked && !finding) found.forEach(sentence => tell(new Error(sentence), "note"));
  if (finding !== get().finding) set({ finding });
  if (JSON.stringify(stacks) !== JSON.stringify(get().stacks)) set({ stacks });
  if (stackId === null && looked && stacks.length) {
    show(stacks[0].id);
    return;
  }
  if (stackId !== null && !stack) {
    show(stacks.at(-1)?.id ?? null);
    return;
  }
  if (!stack) return;
  if (stack.list) {
    set({ stack, waitsForFrames: get().waitsForFrames && !stack.list.length && !stack.failure });
    return;
  }
  const { painted, ...rest } = stack;
  const told = before.results.map(one => {
    const now = painted[one.run];
    return !now || now.stamp === one.stamp ? one : { ...one, ...now };
  });
  const same = told.every((one, k) => one === before.results[k]);
  const merged = { ...before, ...rest, results: same ? before.results : told };
  if (JSON.stringify(merged) !== JSON.stringify(before)) set({ stack: merged });
}

/** @type {Map<string, {run: string|null, crop: number[]|null}>} */
const left = new Map(); // what was chosen in a stack when another one was shown
const keyOf = stackId => `${get().token}/${stackId}`;

function leave() {
  const { stackId, run, crop } = get();
  if (stackId !== null) left.set(keyOf(stackId), { run, crop });
}

/** Show a stack of the shelf, with the version and the crop that were chosen there; null: none. */
export function show(stackId) {
  if (stackId === get().stackId) return refresh();
  leave();
  const { run, crop } = left.get(keyOf(stackId)) ?? { run: null, crop: null };
  set({ stackId, stack: null, run, frame: 0, source: null, frameId: null, grid: false, tool: "result", crop,
    cropping: Boolean(crop), overlay: null, erasing: false, picking: false, other: { kind: "usual" },
    messages: get().messages.filter(one => !one.run) });
  return refresh();
}

/** Back to the start page; the session stays on the server. */
export async function home() {
  leave();
  enter(null);
  forgetMessages();
  // At once: what is drawn without its session would be asked for in vain.
  set({ stacks: [], stackId: null, stack: null, crop: null, cropping: false, saved: [] });
  set({ projects: await ask("GET", "/projects") });
}

export async function openProject(token) {
  if (get().stackId !== null) await home(); // stacks of two projects may have one number
  enter(token);
  set({ messages: [], saved: [] });
  const { stacks } = await ask("GET", address("/state"));
  set({ stacks });
  await show(stacks[0]?.id ?? null);
}

// Messages

/**
 * Tells what went wrong, or another note.
 * @param {{message: string}} error
 * @param {"bad"|"note"} kind
 * @param {string} [run] of the version that the note is about, which it offers to show
 * @param {{label: string, take: () => Promise<void>}} [action] that it offers
 */
export function tell(error, kind = "bad", run = undefined, action = undefined) {
  const text = capital(error.message || String(error));
  const { messages } = get();
  if (!messages.some(one => one.text === text)) set({ messages: [...messages, { kind, text, run, action }] });
}

/** A sentence with a capital, unless it begins with the name of a file. */
export const capital = text =>
  (/^[a-z]+[ ,:]/.test(text) ? text.slice(0, 1).toUpperCase() + text.slice(1) : text);
export const dismiss = text => set({ messages: get().messages.filter(one => one.text !== text) });
export const forgetMessages = () => set({ messages: [] });

/** Runs an action; what it fails with is told. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    tell(error);
    return null;
  }
}

// Frames

/** Adds what was dropped or chosen: [[file, path of its folder or ""]]. */
export async function add(found) {
  forgetMessages();
  const project = found.find(([file]) => file.name.endsWith(PROJECT_SUFFIX));
  if (project) {
    await importProject(project[0]);
    return;
  }
  const { stacks, strokes, skipped } = await sorted(found);
  if (skipped)
    tell(new Error(`Skipped ${plural(skipped, "file")} that ${skipped === 1 ? "is not an image"
      : "are not images"}`), "note");
  if (!stacks.length && !strokes.length && !skipped)
    tell(new Error("This folder is empty: drop the frames, or the folder that they are in"));
  for (const file of strokes) await replay(file);
  if (!stacks.length) return;
  set({ uploading: [0, 1] });
  const queue = [];
  let first = null;
  try {
    await session();
    for (const { title, files } of stacks) {
      const id = await stackFor(title);
      first ??= id;
      queue.push(...files.map(file => ({ id, file, folder: title })));
    }
    await show(first);
    const failed = await upload(queue, (sent, total) => set({ uploading: [sent, total] }));
    failed.forEach(sentence => tell(new Error(sentence)));
    const card = new RegExp(`^(?:${get().info.card})$`);
    for (const { id, folder } of queue.filter((one, k) => queue.findIndex(({ id: other }) =>
      other === one.id) === k)) if (card.test(folder)) await split(id);
  } catch (error) {
    tell(error);
  }
  set({ uploading: null });
  refresh();
}

async function stackFor(title) {
  // Loose files join the stack that is shown; a folder is a stack of its own.
  const { stackId, stack } = get();
  const isEmpty = stack && stack.id === stackId && !stack.frames && !stack.examining;
  if (stackId !== null && (!title || (isEmpty && !get().filled?.has(stackId)))) {
    set({ filled: new Set([...get().filled ?? [], stackId]) });
    return stackId;
  }
  const { id } = await ask("POST", address("/stacks"), title ? { title } : {});
  set({ filled: new Set([...get().filled ?? [], id]) });
  return id;
}

export const newStack = () => attempt(async () => {
  const { stack } = get();
  if (stack && !stack.frames && !stack.examining) return;
  const { id } = await ask("POST", address("/stacks"), {});
  await show(id);
});

export const openFolder = path => attempt(async () => {
  forgetMessages();
  await session();
  const { id } = await ask("POST", address("/open"), { path });
  await show(id);
});

/** Opens all stacks in a folder of the server. */
export const openAll = path => attempt(async () => {
  forgetMessages();
  await session();
  await ask("POST", address("/open"), { path, all: true });
  set({ finding: true });
  await refresh();
});

/** Splits a stack into those that its frames are. */
export const split = id => attempt(async () => {
  await ask("POST", address(`/k/${id}/split`));
  set({ finding: true });
  await refresh();
});

export const addExample = () => attempt(async () => {
  await session();
  const { id } = await ask("POST", address("/example"));
  set({ waitsForFrames: true });
  await show(id);
});

export const arrange = (order, excluded) => attempt(async () => {
  await ask("POST", ofStack("/frames"), { order, excluded });
  await refresh();
});

export function toggle(id) {
  const { list } = get().stack;
  const excluded = list.filter(one => one.used === (one.id === id));
  return arrange(list.map(one => one.id), excluded.map(one => one.id));
}

/** Look at a frame: as what is compared, as what the brush takes, or else in place of the result. */
export function choose(id) {
  const found = version();
  const { tool, frameId, stack } = get();
  const index = found ? found.names.indexOf(stack.list.find(one => one.id === id)?.name) : -1;
  const chosen = index < 0 ? {} : { frame: index, source: null, erasing: false };
  if (index >= 0 && tool === "compare") set({ ...chosen, frameId: null, other: { kind: "frame" } });
  else if (index >= 0 && tool === "retouch") set({ ...chosen, frameId: null });
  else set({ ...chosen, grid: false, frameId: found && frameId === id ? null : id }); // or back
}

export const deleteStack = id => attempt(async () => {
  const one = get().stacks.find(other => other.id === id);
  const parts = [];
  if (one.versions) parts.push(plural(one.versions, "version"));
  const strokes = get().stackId === id
    ? results(get()).reduce((sum, result) => sum + result.strokes, 0) : 0;
  if (strokes) parts.push(plural(strokes, "brush stroke"));
  const with_ = parts.length ? ` with its ${parts.join(" and ")}` : "";
  const sentence = `Delete the stack ${one.name}${with_}? This cannot be undone.`;
  if (one.frames && !await confirmed(sentence, "Delete")) return;
  await ask("DELETE", address(`/k/${id}`));
  const rest = get().stacks.filter(other => other.id !== id);
  set({ stacks: rest });
  if (get().stackId === id) await show(rest.at(-1)?.id ?? null);
  if (!rest.length) await home();
});

export const deleteProject = project => attempt(async () => {
  const what = plural(project.stacks, "stack");
  const sentence = `Delete the project ${project.name} with its ${what}, results and brush strokes? `
    + "This cannot be undone.";
  if (!await confirmed(sentence, "Delete")) return;
  await ask("DELETE", `/s/${project.token}`);
  set({ projects: await ask("GET", "/projects") });
});

/** Writes the project into one file and downloads it. */
export const exportProject = ({ name, token }) => download(undefined, name, { to: "/archive", of: token });

export const importProject = file => attempt(async () => {
  forgetMessages();
  set({ importing: file.name });
  try {
    const { token } = await (await fetched("PUT", "/projects", file)).json();
    await openProject(token);
  } finally {
    set({ importing: null });
  }
});

// Work

export const fuse = values => attempt(async () => {
  forgetMessages();
  // What is looked at stays while the next version is made.
  const shown = version();
  set({ run: shown && !shown.draft ? shown.run : null });
  await ask("POST", ofStack("/work"), values);
  await refresh();
});

export const fuseAll = values => attempt(async () => {
  forgetMessages();
  const { refused } = await ask("POST", address("/work"), values);
  refused.forEach(sentence => tell(new Error(sentence)));
  await refresh();
});

export const cancel = () => attempt(async () => {
  await ask("DELETE", ofStack("/work"));
  await refresh();
});

export const deleteVersion = found => attempt(async () => {
  const strokes = found.strokes ? ` and its ${plural(found.strokes, "brush stroke")}` : "";
  if (!await confirmed(`Delete version ${found.number}${strokes}? This cannot be undone.`, "Delete"))
    return;
  await ask("DELETE", ofStack(`/v/${found.number}`));
  set({ run: null });
  await refresh();
});

// Comparing

/** Compares the shown version with what a method makes of its frames. */
export const compareMethod = method => attempt(async () => {
  const { number, methods } = version();
  if (!methods.includes(method)) {
    await ask("POST", ofStack(`/v/${number}/methods/${method}`));
    await refresh();
  }
  set({ other: { kind: "method", method } });
});

export const cancelMethod = method => attempt(async () => {
  await ask("DELETE", ofStack(`/v/${version().number}/methods/${method}`));
  await refresh();
});

// Retouching

/** @type {Promise<any>} */
let line = Promise.resolve(); // strokes reach the server in the order in which they were painted

/** Sends a change of the strokes of a version; resolves to the boxes that have changed, or null. */
export function painting(method, body, path = "", { number, run } = version()) {
  const to = ofStack(`/v/${number}/strokes${path}`);
  set({ painting: get().painting + 1 });
  const sent = line.then(async () => {
    try {
      const { boxes, stamp, ...counts } = await ask(method, to, body);
      const own = one => (one.run === run ? { ...one, ...counts } : one);
      const { stack } = get();
      if (stack) set({ stack: { ...stack, results: stack.results.map(own) } });
      return { run, boxes, stamp };
    } catch (error) {
      tell(error.message === AWAY
        ? new Error("What you painted last was not saved: the server is away") : error);
      return null;
    } finally {
      set({ painting: get().painting - 1 });
    }
  });
  line = sent;
  return sent;
}

/** Takes all strokes off a version, and offers to bring them back. */
export async function removeStrokes({ run }) {
  const found = results(get()).find(one => one.run === run);
  const done = found?.strokes && await painting("DELETE", undefined, "?all=1", found);
  if (!done) return;
  replayed.by(done);
  const told = plural(found.strokes, "brush stroke");
  tell(new Error(`Removed ${told} from version ${found.number}`), "note", undefined, { label: "Undo",
    take: async () => replayed.by(await painting("POST", undefined, "/redo?all=1", found)) });
}

let turned = Promise.resolve(null); // each click goes on from what the one before it has chosen

/**
 * Fills a region where something moved from the frame after, or before, the one that fills it.
 * @param {number} index of the region
 * @param {number} way 1 or -1
 * @returns {Promise<any>} as of `painting`
 */
export function turnRegion(index, way) {
  turned = turned.then(() => {
    const found = version();
    if (!found?.regions[index]) return null;
    const names = found.kept.map(k => found.names[k]);
    const at = names.indexOf(found.filled[index]) + way;
    set({ region: { run: found.run, index } });
    return painting("POST", { ...found.regions[index], frame: names.at(at % names.length) });
  });
  return turned;
}

export const replayed = { by: null }; // set by the view, which asks for tiles again

async function replay(file) {
  try {
    const found = version();
    if (!found || found.draft)
      throw new Error(`${file.name} cannot be painted yet: fuse the frames first`);
    if (/\.zip$/i.test(file.name)) { // with the pictures that the strokes take
      const query = new URLSearchParams({ name: file.name });
      replayed.by(await painting("PUT", file, `?${query}`));
      return;
    }
    let record = null;
    try {
      record = JSON.parse(await file.text());
    } catch { /* reported below */ }
    if (!record || !Array.isArray(record.strokes))
      throw new Error(`${file.name} is not a file of strokes: choose one exported from this page`);
    replayed.by(await painting("POST", { ...record, name: file.name }));
  } catch (error) {
    tell(error);
  }
}

export async function replayAll(files) {
  forgetMessages();
  for (const file of files) await replay(file);
}

// Exports

const pause = milliseconds => new Promise(settle => setTimeout(settle, milliseconds));

/**
 * Writes a file on the server and downloads it.
 * @param {object|undefined} wanted
 * @param {string} label what it is called while it is written
 * @param {{to?: string, of?: string|null, size?: string}} [more] to: where it is asked for; of: token of
 *   the project; size: of the picture, for the line that tells of it afterwards
 */
export async function download(wanted, label, { to = "/exports", of = get().token, size = "" } = {}) {
  const entry = { label, key: `${Date.now()}-${Math.random()}` };
  set({ exports: [...get().exports, entry] });
  try {
    const { id } = await ask("POST", `/s/${of}${to}`, wanted);
    const at = path => `/s/${of}/exports/${id}${path}`;
    let found;
    for (;;) {
      found = await ask("GET", at(""));
      if (found.failure) throw new Error(found.failure);
      found.notes.forEach(note => tell(new Error(note), "note"));
      if (found.done) break;
      await pause(BUSY);
    }
    const link = document.createElement("a");
    link.href = at("/file");
    link.download = "";
    link.click();
    const text = `Saved ${found.name}${size && ` (${size})`}`;
    set({ saved: [...get().saved, { text, key: entry.key }].slice(-MOST_SAVED) });
  } catch (error) {
    tell(new Error(`${label} was not exported: ${error.message}`));
  } finally {
    set({ exports: get().exports.filter(one => one !== entry) });
  }
}
