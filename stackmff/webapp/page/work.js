// The work that goes on, in one bar; what went wrong; what the header tells.

import { cancel, dismiss, fuse } from "./actions.js";
import { byId, element, plural, span } from "./elements.js";
import { fill, values } from "./options.js";
import { frames, set, version, watch } from "./store.js";

export function listen() {
  byId("go").onclick = () => {
    const chosen = values();
    if (chosen) fuse(chosen);
  };
  byId("cancel").onclick = cancel;
  watch(s => [s.stack?.work, s.stack?.examining, s.uploading, s.stack?.frames, s.waitsForFrames],
    drawWork);
  watch(s => [s.stack?.used ?? 0, Boolean(s.stack?.examining || s.uploading || s.stack?.odd),
    Boolean(s.stack?.work), Boolean(version(s))], drawGo);
  watch(s => [s.messages, s.stack?.refused, s.stack?.odd, s.stack?.failure,
    version(s)?.run], drawMessages);
  watch(s => [about(s.stack, s.uploading)], text => {
    byId("about").textContent = text;
  });
  watch(s => [s.stack?.id, JSON.stringify(s.stack?.values)], (id, chosen) => {
    if (chosen) fill(JSON.parse(chosen));
  });
}

const WORDS = {
  "reading frames": work => `Reading frame ${Math.min(work.done + 1, work.total)} of ${work.total}`,
  aligning: () => "Aligning", resampling: () => "Bringing frames into register",
  fusing: ({ done, total }) => (total && done === total ? "Finishing" : "Fusing"),
  slabs: () => "Fusing slabs",
};

function words(work) {
  if (work.stage === "waiting")
    return work.before ? `Queued, ${plural(work.before, "job")} ahead` : "Starting";
  const stage = WORDS[work.stage]?.(work) ?? work.stage;
  return work.part ? `Draft: ${stage.slice(0, 1).toLowerCase()}${stage.slice(1)}` : stage;
}

function drawWork(work, examining, uploading, count, waits) {
  byId("work").hidden = !work && !examining && !uploading && !waits;
  byId("cancel").hidden = !work;
  const bar = byId("work-bar");
  let text = "";
  let status = "";
  if (work) {
    text = words(work);
    status = text.replace(/ frame \d+ of/, "");
    if (work.left) text += `, about ${span(work.left)} left`;
    bar.value = work.fraction;
  } else if (uploading) {
    bar.value = uploading[0] / Math.max(uploading[1], 1);
    text = `Uploading, ${Math.round(100 * bar.value)} %`;
    status = "Uploading";
  } else if (examining) {
    const [done, total] = examining;
    text = `Reading frame ${Math.min(done + 1, total)} of ${total}`;
    bar.value = done / total;
    status = "Reading frames";
  } else if (waits) {
    bar.removeAttribute("value");
    text = status = "Drawing the frames of the example";
  }
  byId("work-text").textContent = text;
  // Screen readers are told each stage once, not each step.
  if (byId("work-status").textContent !== status) byId("work-status").textContent = status;
  if (byId("work").hidden && count && !byId("go").disabled) 
    byId("work-status").textContent = version() ? "The result is ready" : "The frames are ready";
  
}

function drawGo(used, waits, works, again) {
  byId("go").textContent = used ? `Fuse ${plural(used, "frame")}${again ? " again" : ""}` : "Fuse";
  byId("go").disabled = used < 2 || waits;
  byId("go").hidden = works;
}

function drawMessages(told, refused, odd, failure) {
  const all = [...told];
  const add = (kind, text) => all.some(one => one.text === text) || all.push({ kind, text });
  for (const sentence of refused ?? [])
    add(sentence.startsWith("Skipped") ? "note" : "bad", sentence);
  if (odd) add("bad", odd);
  if (failure) add("bad", failure);
  const box = byId("messages");
  const held = box.contains(document.activeElement);
  box.replaceChildren(...all.map(({ kind, text, run, action }) => {
    const own = told.some(one => one.text === text);
    const show = run && version()?.run !== run ? [element("button", "Show", { onclick: () => {
      if (!action) dismiss(text);
      set({ run, frameId: null });
    } })] : [];
    const act = action ? [element("button", action.label, { onclick: () => {
      action.take().then(() => dismiss(text)); // what it tells takes the place, and the focus
    } })] : [];
    const shut = own ? [element("button", "✕", { title: "Dismiss", ariaLabel: "Dismiss this message",
      onclick: () => dismiss(text) })] : [];
    const acts = show.length + act.length
      ? [element("p", null, { className: "acts" }, ...show, ...act)] : [];
    return element("div", null, { className: kind }, element("span", text), ...acts, ...shut);
  }));
  if (held) (box.querySelector("button") ?? byId("picture")).focus(); // what had the focus is gone
}

function about(stack, uploading) {
  if (!stack) return "";
  const all = frames({ stack });
  const of = stack.titled ? `${stack.name}: ` : "";
  if (uploading || stack.examining || !all.length) return stack.titled ? stack.name : "";
  const { width, height } = all[Math.floor(all.length / 2)];
  const sizes = `${width} × ${height}`;
  if (all.length === 1) return `${of}1 frame of ${sizes}, add at least one more`;
  const some = stack.used < all.length ? `${stack.used} of ${all.length}` : stack.used;
  const order = stack.in_order ? ", in focus order" : "";
  return `${of}${some} frames of ${sizes}${order}`;
}
