// The state of the page, in one place. Views draw what they watch; actions change it.

/** @import { Frame, Info, Result, Stack, Summary } from "./types.js" */

/**
 * @typedef {object} Message
 * @property {string} kind "bad" or "note"
 * @property {string} text
 * @property {string} [run] of the version that it is about
 * @property {{label: string, take: () => Promise<void>}} [action] that it offers
 *
 * @typedef {object} State
 * @property {Info|null} info what the server told of itself
 * @property {string|null} token of the session, null on the start page
 * @property {object[]} projects
 * @property {Summary[]} stacks on the shelf
 * @property {number|null} stackId of the stack that is shown
 * @property {Stack|null} stack that is shown, its frames in `list`
 * @property {string|null} run of the version that was chosen; null: the last one
 * @property {number} frame index of the chosen frame in the names of the version
 * @property {number|null} frameId id of the frame that is looked at in place of the result
 * @property {boolean} grid whether the user wants to see all frames, before there is a result
 * @property {"result"|"compare"|"retouch"|"3d"} tool
 * @property {{kind: string, run?: string, method?: string}} other what the picture is compared with;
 *   kind: "version", "plain", "frame" or "method" once one was chosen, before that "usual"
 * @property {string|null} source name of the picture that the brush takes; null: the chosen frame
 * @property {"wipe"|"side"|"difference"} compareMode
 * @property {boolean} sourcePane whether the source is shown beside the retouched picture
 * @property {boolean} erasing
 * @property {boolean} picking whether the next click takes the frame that is sharpest there
 * @property {string|null} overlay
 * @property {boolean} outlines whether the regions where something moved are outlined
 * @property {{run: string, index: number}|null} region that was clicked last
 * @property {[number, number]|null} uploading bytes sent, bytes in all
 * @property {number} painting strokes that the server does not have yet
 * @property {Message[]} messages
 * @property {boolean} finding whether the server looks for stacks
 * @property {{label: string, key: string}[]} exports that are being written
 * @property {{text: string, key: string}[]} saved lines on the files that were downloaded last
 * @property {string|null} importing name of the project file that is opened
 * @property {number[]|null} crop [top, bottom, left, right], px
 * @property {boolean} cropping
 * @property {boolean} [waitsForFrames] whether the example is being drawn
 * @property {Set<number>} [filled] ids of stacks that files were sent to
 */

/** @type {State} */
const state = {
  info: null, token: null, projects: [], stacks: [], stackId: null, stack: null, run: null,
  frame: 0, source: null, frameId: null, grid: false, tool: "result", other: { kind: "usual" },
  compareMode: "wipe", sourcePane: true, erasing: false, overlay: null, uploading: null, painting: 0,
  messages: [], exports: [], saved: [], importing: null, finding: false, crop: null, cropping: false,
  outlines: true, region: null, picking: false,
};
const watchers = [];
let waits = false;

export const get = () => state;

/** @param {Partial<State>} patch */
export function set(patch) {
  Object.assign(state, patch);
  if (waits) return;
  waits = true;
  queueMicrotask(() => {
    waits = false;
    for (const watcher of watchers) watcher();
  });
}

/**
 * Calls draw(...values) now and whenever one of the values that `pick` takes has changed.
 * @param {(state: State) => any[]} pick
 * @param {(...values: any[]) => void} draw
 */
export function watch(pick, draw) {
  let before;
  const look = () => {
    const now = pick(state);
    if (before && now.every((value, k) => value === before[k])) return;
    before = now;
    draw(...now);
  };
  watchers.push(look);
  look();
}

// What follows from the state

/** @type {any[]} */
const NONE = [];
/** @type {(one: State) => Result[]} */
export const results = one => one.stack?.results?.filter(result => !result.broken) ?? NONE;

/**
 * The version that is shown: the chosen one, else the last; null before there is any.
 * @returns {Result|null}
 */
export function version(one = state) {
  const all = results(one);
  return all.find(result => result.run === one.run) ?? all.at(-1) ?? null;
}

/** @type {(one: {stack: Stack|null}) => Frame[]} */
export const frames = one => one.stack?.list ?? NONE;

/** The id of the frame that a version's name belongs to, or null. */
export const idOf = (name, one = state) =>
  frames(one).find(frame => frame.name === name)?.id ?? null;
