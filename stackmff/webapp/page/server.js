// Requests to the server, and uploads.

const KNOWN = new RegExp("\\.(jpe?g|png|tiff?|bmp|webp|hei[cf]|hif|avif|jxl|dng|cr[23]|nef|nrw|arw|orf|"
  + "rw2|rwl|raf|pef|srw|3fr|iiq|x3f|mp4|m4v|mov|avi|mkv|webm|mts)$", "i");
let token = sessionStorage.getItem("token");
export let session = JSON.parse(sessionStorage.getItem("session") || "null");

export function address(path) {
  return `/s/${token}${path}`;
}

export async function begin() {
  // Continues the session of this tab, or begins one if there is none or it has ended.
  if (token && session && (await fetch(address("/state"))).ok) return;
  const answer = await fetch("/sessions", { method: "POST" });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  [session, token] = [found, found.token];
  sessionStorage.setItem("token", token);
  sessionStorage.setItem("session", JSON.stringify(found));
}

export async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(address(path), {
      method, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("the server does not answer: check that it is still running");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error || `the server answers with status ${answer.status}`);
  return found;
}

export async function bytes(path) {
  const answer = await fetch(address(path));
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.arrayBuffer();
}

export async function droppedFiles(transfer) {
  // [[file, name of its folder or ""]] of what was dropped, including the files in dropped folders.
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map(file => [file, ""]);
  const found = [];
  for (const entry of entries) {
    if (entry.isFile) {
      found.push([await new Promise((good, bad) => entry.file(good, bad)), ""]);
      continue;
    }
    const reader = entry.createReader();
    for (;;) {
      const inside = await new Promise((good, bad) => reader.readEntries(good, bad));
      if (!inside.length) break;
      for (const one of inside)
        if (one.isFile && KNOWN.test(one.name) && !one.name.startsWith("."))
          found.push([await new Promise((good, bad) => one.file(good, bad)), entry.name]);
    }
  }
  return found;
}

export async function upload(files, onProgress) {
  // Uploads [[file, folder]], three at a time; onProgress(bytes sent, bytes in all). Returns
  // sentences on what failed.
  const total = files.reduce((sum, [file]) => sum + file.size, 0);
  if (total > session.most_bytes)
    return [`${(total / 1e9).toFixed(1)} GB are more than the ${session.most_bytes / 1e9} GB that ` +
      "a session may upload: upload fewer frames"];
  const sent = new Map();
  const failed = [];
  const queue = [...files];
  const one = (file, folder) => new Promise(settle => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: file.name, ...(folder && { folder }) });
    request.open("PUT", address(`/files?${query}`));
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
    while (queue.length) await one(...queue.shift());
  };
  await Promise.all([worker(), worker(), worker()]);
  return failed;
}

addEventListener("pagehide", () => token && navigator.sendBeacon(address("/leave")));
