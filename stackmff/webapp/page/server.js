// Requests to the server, and uploads.

import { get, set } from "./store.js";
import { hasPages } from "./tiff.js";

export const address = path => `/s/${get().token}${path}`;
export const ofStack = path => address(`/k/${get().stackId}${path}`);

export const AWAY = "The server does not answer: check that it is still running";

export async function fetched(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method, body: body === undefined || body instanceof Blob ? body : JSON.stringify(body),
    });
  } catch {
    throw new Error(AWAY);
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  /** @type {Error & {status?: number}} */
  const error = new Error(found.error || `the server answers with status ${answer.status}`);
  error.status = answer.status;
  throw error;
}

export async function ask(method, path, body) {
  const answer = await fetched(method, path, body);
  return answer.status === 204 ? {} : answer.json();
}

export const bytes = async path => (await fetched("GET", path)).arrayBuffer();

/** The token of the session; begins one on the start page. */
export async function session() {
  if (get().token) return get().token;
  const { token } = await ask("POST", "/sessions");
  enter(token);
  return token;
}

export function enter(token) {
  set({ token });
  history.replaceState(null, "", token ? `#${token}` : location.pathname);
}

// Files that are dropped

const suffixOf = name => name.slice(name.lastIndexOf(".")).toLowerCase();
export const isKnown = name => !name.startsWith(".") && get().info.suffixes.includes(suffixOf(name));
const isVideo = name => get().info.videos.includes(suffixOf(name));

/**
 * What was dropped or chosen, as the stacks that it makes.
 * @returns {Promise<{stacks: {title: string, files: File[]}[], strokes: File[], skipped: number}>}
 *     the stack of loose pictures has the title ""
 */
export async function sorted(found) {
  const stacks = new Map();
  const strokes = [];
  let skipped = 0;
  for (const [file, folder] of found) 
    if (/\.(json|zip)$/i.test(file.name) && !folder) strokes.push(file);
    else if (!isKnown(file.name)) skipped += file.name.startsWith(".") ? 0 : 1;
    else {
      const alone = isVideo(file.name) || (/\.tiff?$/i.test(file.name) && await hasPages(file));
      const title = alone ? `${folder}/${file.name}` : folder;
      if (!stacks.has(title)) stacks.set(title, []);
      stacks.get(title).push(file);
    }
  
  const named = [...stacks].map(([path, files]) => {
    const last = path.split("/").filter(Boolean).at(-1) ?? "";
    return { title: last === files[0].name ? last.replace(/\.[^.]*$/, "") : last, files };
  });
  return { stacks: named, strokes, skipped };
}

export async function droppedFiles(transfer) {
  // [[file, path of its folder or ""]] of what was dropped, including nested folders.
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map(file => [file, ""]);
  const found = [];
  const walk = async (entry, folder) => {
    if (entry.isFile) {
      found.push([await new Promise((good, bad) => entry.file(good, bad)), folder]);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const inside = await new Promise((good, bad) => reader.readEntries(good, bad));
      if (!inside.length) break;
      for (const one of inside) await walk(one, `${folder}/${entry.name}`);
    }
  };
  for (const entry of entries) await walk(entry, "");
  return found;
}

/** Uploads [{id of the stack, file, folder}], three at a time. Returns sentences on what failed. */
export async function upload(files, onProgress) {
  const total = files.reduce((sum, { file }) => sum + file.size, 0);
  const most = get().info.most_bytes;
  if (total > most)
    return [`${(total / 1e9).toFixed(1)} GB are more than the ${most / 1e9} GB that a session may `
      + "upload: upload fewer frames"];
  const sent = new Map();
  const failed = [];
  const queue = [...files];
  const one = ({ id, file, folder }) => new Promise(/** @param {(value?: any) => void} settle */ settle => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: file.name, ...(folder && { folder }) });
    request.open("PUT", address(`/k/${id}/files?${query}`));
    request.upload.onprogress = event => {
      sent.set(file, event.loaded);
      onProgress([...sent.values()].reduce((a, b) => a + b, 0), total);
    };
    request.onload = () => {
      if (request.status === 200) return settle();
      let sentence = `${file.name} was refused`;
      try {
        sentence = JSON.parse(request.response).error;
      } catch { /* the answer did not come from our server */ }
      settle(failed.push(sentence));
    };
    request.onerror = () => settle(failed.push(`${file.name} was not uploaded: upload it again`));
    request.send(file);
  });
  const worker = async () => {
    while (queue.length) await one(queue.shift());
  };
  await Promise.all([worker(), worker(), worker()]);
  return failed;
}
