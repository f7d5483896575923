// Export: what is written, how, and what is being written.

import { download } from "./actions.js";
import { all as allOf, byId, element } from "./elements.js";
import { get, set, version, watch } from "./store.js";

const REMEMBERED = ["template", "format", "bits", "quality", "srgb", "label"]; // choices that come back
const SUFFIXES = { tiff: ".tif", png: ".png", jpeg: ".jpg", webp: ".webp" };
const value = input => (input.type === "checkbox" ? input.checked : input.value);

export function listen() {
  for (const id of REMEMBERED) {
    const known = localStorage.getItem(`export-${id}`);
    if (known !== null) 
      if (byId(id).type === "checkbox") byId(id).checked = known === "true";
      else byId(id).value = known;
    
    byId(id).onchange = () => {
      localStorage.setItem(`export-${id}`, value(byId(id)));
      drawChoices();
    };
  }
  byId("crop").onchange = () => {
    const cropping = byId("crop").value === "free";
    set(cropping ? { cropping, tool: "result", frameId: null } : { cropping });
  };
  byId("save").onclick = () => save(false);
  byId("save-all").onclick = () => save(true);
  for (const button of allOf("[data-what]"))
    button.onclick = () => {
      const { number } = version();
      download({ stack: get().stackId, version: number, what: button.dataset.what, area: area() },
        button.textContent);
    };
  watch(s => [s.stack?.results, s.run, s.stacks], draw);
  watch(s => [s.exports, s.saved], drawExports);
  // What a microscope wrote is offered; what the user enters stays.
  watch(s => [version(s)?.pixel_size, s.stackId], size => {
    byId("pixel-size").value = size ? Number(size.toPrecision(6)) : "";
  });
  watch(s => [s.crop, s.cropping, s.stack?.results, s.run], drawCrop);
  // A rectangle belongs to its stack.
  watch(s => [s.token, s.stackId], () => {
    if (get().crop) byId("crop").value = "free";
    else if (byId("crop").value === "free") byId("crop").value = "";
  });
  byId("template").addEventListener("input", drawName);
  watch(s => [s.stack?.name, s.stack?.results, s.run], drawName);
  drawChoices();
}

/** The area that the picture and its maps are cropped to: null, "common", or four numbers. */
function area() {
  const chosen = byId("crop").value;
  return chosen === "free" ? get().crop : chosen || null;
}

function save(all) {
  const quality = byId("quality");
  if (!quality.reportValidity()) return;
  const format = byId("format").value;
  const lossy = format === "jpeg" || format === "webp";
  const wanted = {
    what: "picture", format, bits: Number(byId("bits").value), srgb: byId("srgb").checked,
    quality: lossy && quality.value !== "" ? Number(quality.value) : null,
    name: byId("template").value,
    label: byId("label").value,
    pixel_size: Number(byId("pixel-size").value) || null,
  };
  if (all) {
    const common = area() === "common" ? "common" : null;
    download({ ...wanted, all: true, pixel_size: null, area: common }, "All stacks");
  } else {
    const { number, width, height, area: common } = version();
    const [top, bottom, left, right] = (area() === "common" ? common : area()) ?? [0, height, 0, width];
    download({ ...wanted, stack: get().stackId, version: number, area: area() }, "The picture",
      { size: `${right - left} × ${bottom - top}` });
  }
}

/** Whether the picture is converted to sRGB; the choice stays for stacks with another profile. */
const converts = () => Boolean(version()?.profile) && byId("srgb").checked;

function drawChoices() {
  const format = byId("format").value;
  const deep = format === "tiff" || format === "png";
  byId("bits").disabled = !deep || converts();
  if (byId("bits").disabled) byId("bits").value = "8";
  else byId("bits").value = localStorage.getItem("export-bits") ?? "16";
  const quality = byId("quality"); // it stays where it is, so that nothing moves below the pointer
  if (quality.disabled !== deep)
    quality.value = deep ? "" : localStorage.getItem("export-quality") ?? "95";
  quality.disabled = deep;
  quality.placeholder = format === "jpeg" ? "95" : "lossless";
  drawName();
}

/** The name that results for the file. */
function drawName() {
  const template = byId("template").value;
  const name = template.replaceAll("{stack}", get().stack?.name ?? "")
    .replaceAll("{version}", String(version()?.number ?? ""));
  byId("file-name").textContent = name + SUFFIXES[byId("format").value];
}

function draw() {
  const found = version();
  byId("export").hidden = !found || found.draft;
  if (byId("export").hidden) return;
  byId("export").querySelector("h2").textContent = `Export version ${found.number}`;
  byId("srgb-option").hidden = !found.profile;
  byId("srgb-already").hidden = found.profile;
  drawChoices();
  const offered = {
    focus: true, confidence: found.confidence, alignment: found.aligned,
    strokes: found.strokes > 0, slabs: found.slabs.length > 0,
  };
  for (const button of allOf("[data-what]"))
    button.hidden = offered[button.dataset.what] === false;
  byId("save-all").hidden = get().stacks.filter(one => one.versions).length < 2;
  const whole = !found.area || found.area.join() === [0, found.height, 0, found.width].join();
  byId("crop").querySelector("[value=common]").disabled = whole;
}

function drawCrop(crop) {
  const found = version();
  const chosen = byId("crop").value;
  const box = chosen === "free" ? crop : chosen === "common" ? found?.area : null;
  byId("crop-size").hidden = !chosen;
  byId("crop-size").textContent = box ? `${box[3] - box[2]} × ${box[1] - box[0]} pixels`
    : "Drag a rectangle on the picture";
  byId("save").disabled = chosen === "free" && !crop;
}

function drawExports(running, saved) {
  byId("exporting").replaceChildren(...running.map(({ label }) =>
    element("li", `${label}: writing the file …`, {}, element("progress", null,
      { ariaLabel: "Writing the file" }))), ...saved.toReversed().map(({ text }) => element("li", text)));
}
