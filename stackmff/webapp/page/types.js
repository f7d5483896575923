// The types of what the server tells; see ShelfStack.summary and state, StackVersions._result_state.

/**
 * @typedef {object} Work a fusion that goes on, see WorkPlan.state
 * @property {string} stage
 * @property {number} done
 * @property {number} total
 * @property {string|null} part
 * @property {number} fraction of all work
 * @property {number|null} left seconds
 * @property {number} before jobs before it in the queue
 *
 * @typedef {object} Making a method that is at work or waits
 * @property {string} run
 * @property {string} method
 * @property {number} before
 *
 * @typedef {object} Summary a stack on the shelf
 * @property {number} id
 * @property {string} name
 * @property {boolean} titled
 * @property {number|null} cover
 * @property {number} frames
 * @property {number} used
 * @property {[number, number]|null} examining
 * @property {Work|null} work
 * @property {string|null} failure
 * @property {Making[]} comparing
 * @property {number} versions
 *
 * @typedef {object} Frame
 * @property {number} id
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {number} sharpness
 * @property {boolean} used
 * @property {boolean} whole
 *
 * @typedef {object} Result a version, or a draft
 * @property {string} run
 * @property {number} number
 * @property {boolean} draft
 * @property {string} [broken] sentence
 * @property {number} least_level
 * @property {number} width
 * @property {number} height
 * @property {string[]} names
 * @property {number[]} kept
 * @property {string[]} notes
 * @property {string} [near_end] sentence on which end the 3D view takes for near
 * @property {number} seconds
 * @property {Object<string, any>} options
 * @property {boolean} profile
 * @property {number|null} pixel_size micrometres
 * @property {number[]|null} area
 * @property {boolean} confidence
 * @property {boolean} aligned
 * @property {string[]} slabs
 * @property {string[]} methods
 * @property {{frame: string, region: import("./regions.js").Place}[]} regions where something moved
 * @property {string[]} filled the frame that fills each region now
 * @property {number} strokes
 * @property {number} undone
 * @property {string} stamp
 *
 * @typedef {Summary & {changes: number, refused: string[], odd: string|null, in_order: boolean,
 *   values: Object<string, any>, runs: number, list: Frame[], results: Result[]}} Stack
 *
 * @typedef {object} Info see Endpoints.info
 * @property {number} most_bytes
 * @property {boolean} root
 * @property {boolean} lasting
 * @property {Object<string, any>[]} form
 * @property {{name: string, title: string, year: number, missing: string|null}[]} methods
 * @property {string[]} suffixes
 * @property {string[]} videos
 * @property {string} card
 * @property {number} tile
 * @property {number} tallest
 */

export {};
