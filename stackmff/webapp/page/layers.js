// What can be shown on the canvas besides the result: frames, versions, slabs, pictures of methods.

import { shortNames } from "./elements.js";
import { get, results, version } from "./store.js";

/** @typedef {import("./view.js").Layer} Layer */

const METHOD = "method-"; // before the name of a method, see other_pictures.py

export const fusedLayer = found =>
  ({ run: found.run, name: "fused", stamp: found.stamp, least: found.least_level });
export const frameLayer = (found, index) =>
  ({ run: found.run, name: String(index), least: found.least_level });

export const frameIndex = found => Math.min(get().frame, found.names.length - 1);

/** The other versions of the size of one. */
const others = found => results(get()).filter(one => one !== found && !one.draft
  && one.width === found.width && one.height === found.height);

/** What is said of a method that is at work or waits for the shown version, or null. */
export const making = (found, method) => get().stack.comparing
  .find(one => one.run === found.run && one.method === method) ?? null;

/** The version to compare with unless the user chooses: the one before, else the last one. */
const usual = found => {
  const all = others(found);
  return all.filter(one => one.number < found.number).at(-1) ?? all.at(-1);
};

/**
 * What the result is compared with; if nothing was chosen, or that is gone: another version, else the
 * chosen frame.
 * @returns {{key: string, layer: Layer|null, name: string}} layer: null while it is being made
 */
export function compared(found) {
  const { other } = get();
  const index = frameIndex(found);
  const frame = { key: `frame ${index}`, name: found.names[index], layer: frameLayer(found, index) };
  if (other.kind === "frame") return frame;
  if (other.kind === "plain" && found.strokes)
    return { key: "plain", name: "Before retouching",
      layer: { run: found.run, name: "plain", least: found.least_level } };
  if (other.kind === "method") {
    const ready = found.methods.includes(other.method);
    if (ready || making(found, other.method))
      return { key: `method ${other.method}`, name: other.method, layer: !ready ? null
        : { run: found.run, name: METHOD + other.method, least: found.least_level } };
  }
  const another = others(found).find(one => one.run === other.run) ?? usual(found);
  return !another ? frame
    : { key: `version ${another.run}`, name: `Version ${another.number}`, layer: fusedLayer(another) };
}

const slabName = slab => slab.replace("slab_", "Frames ").replace("-", " to ");

/** Groups of [value, text] that the result can be compared with. */
export function comparable(found) {
  const versions = others(found).map(one => [`version ${one.run}`, `Version ${one.number}`]);
  if (found.strokes) versions.unshift(["plain", "Before retouching"]);
  const methods = found.draft ? [] : get().info.methods.map(({ name, title, year, missing }) =>
    [`method ${name}`, `${name}: ${title}${year ? ` (${year})` : ""}${missing ? ", not installed" : ""}`,
      Boolean(missing)]);
  return { Versions: versions, Frames: frameNames(found), Methods: methods };
}

const frameNames = found => shortNames(found.names).map((name, k) => [`frame ${k}`, name]);

/** Groups of [value, text] that the brush can take. */
export function sources(found) {
  const versions = others(found).map(one => [`version-${one.number}`, `Version ${one.number}`]);
  const slabs = [found, ...others(found)].flatMap(one => one.slabs.map(slab =>
    [`version-${one.number}-${slab}`,
      one === found ? slabName(slab) : `Version ${one.number}, ${slabName(slab).toLowerCase()}`]));
  return { Frames: frameNames(found), Slabs: slabs, Versions: versions };
}

/**
 * What the brush takes: a picture of the stack, else the chosen frame.
 * @returns {{key: string, layer: Layer & {source?: string}, name: string}}
 */
export function brushSource(found) {
  const { source } = get();
  const { Slabs, Versions } = sources(found);
  const chosen = [...Slabs, ...Versions].find(([value]) => value === source);
  if (chosen) {
    const [, number, slab] = source.match(/^version-(\d+)(?:-(.*))?$/);
    const layer = { run: `run-${number}`, name: slab ?? "plain", least: 0, source };
    return { key: source, layer, name: chosen[1] };
  }
  const index = frameIndex(found);
  return { key: `frame ${index}`, layer: frameLayer(found, index), name: found.names[index] };
}

/** Fills a select with groups of [value, text, disabled], if they have changed. */
export function fillGroups(select, groups, chosen) {
  const key = JSON.stringify(groups);
  if (select.dataset.entries !== key) {
    select.dataset.entries = key;
    const options = entries => entries.map(([value, text, disabled]) =>
      Object.assign(new Option(text, value), { disabled: Boolean(disabled) }));
    select.replaceChildren(...Object.entries(groups).filter(([, entries]) => entries.length)
      .map(([label, entries]) => {
        const group = Object.assign(document.createElement("optgroup"), { label });
        group.append(...options(entries));
        return group;
      }));
  }
  select.value = chosen;
}

export const otherName = () => compared(version()).name;
