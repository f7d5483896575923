// Making elements of the page.

/**
 * An element of index.html, of whatever kind it has there.
 * @type {(id: string) => any}
 */
export const byId = id => document.getElementById(id);

/**
 * All elements that match a selector.
 * @type {(selector: string) => any[]}
 */
export const all = selector => [...document.querySelectorAll(selector)];

export function element(name, text, attributes = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  Object.assign(made, attributes);
  made.append(...children);
  return made;
}

let clicked = null; // the control that has the focus since it was clicked
addEventListener("pointerdown", event => {
  clicked = event.target instanceof Element ? event.target.closest("button, input, select, summary") : null;
}, true);
addEventListener("focusin", event => {
  if (event.target !== clicked) clicked = null;
});
addEventListener("focusout", event => { // when it has the focus again, it is by the keyboard
  if (event.target === clicked) clicked = null;
});

/**
 * Whether a control has the focus only since it was clicked: its user may mean a key for the page.
 * Browsers match :focus-visible as soon as a key is pressed, so that it cannot tell.
 * @type {(target: EventTarget) => boolean}
 */
export const isClicked = target => target === clicked;

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

export function size(bytes) {
  return bytes >= 5e8 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.max(bytes / 1e6, 0.1).toFixed(1)} MB`;
}

/** A span of seconds in the words of a person who waits. */
export function span(seconds) {
  if (seconds < 1.5) return "1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function age(when) {
  const passed = Date.now() / 1000 - when;
  if (passed < 90) return "just now";
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  if (passed < 129600) return plural(Math.round(passed / 3600), "hour") + " ago";
  return plural(Math.round(passed / 86400), "day") + " ago";
}

/** A name in two parts: the first may be cut, the second is what distinguishes it. */
export function nameParts(name) {
  const at = Math.max(name.length - 9, 0);
  return [element("span", name.slice(0, at), { className: "head" }),
    element("span", name.slice(at), { className: "tail" })];
}

const LONGEST_NAME = 13; // characters that fit into a closed list of the toolbar

/**
 * Names for a list that has no room for long ones: the part in which they differ stays.
 * @param {string[]} names that differ from one another
 * @returns {string[]} of which no two are the same
 */
export function shortNames(names) {
  const [first = ""] = names;
  let start = 0;
  while (start < first.length && names.every(name => name[start] === first[start])) start++;
  while (start > 0 && /\d/.test(first[start - 1])) start--; // numbers stay whole
  if (start === 1) start = 0; // a mark of what is left out takes as much room
  const shown = names.map(name => {
    if (name.length <= LONGEST_NAME) return name;
    if (name.length - start < LONGEST_NAME) return `…${name.slice(1 - LONGEST_NAME)}`;
    return `${start ? "…" : ""}${name.slice(start, start + LONGEST_NAME - 2)}…`;
  });
  return new Set(shown).size === names.length ? shown : names;
}

/** Asks in a dialog; resolves to whether the answer is yes. */
export function confirmed(sentence, yes) {
  const dialog = byId("confirm");
  byId("question").textContent = sentence;
  byId("yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(settle => dialog.addEventListener(
    "close", () => settle(dialog.returnValue === "yes"), { once: true }));
}

/** Makes the children of a list those of `items`, keeping the elements of keys that stay. */
export function keyed(list, items, keyOf, make, update) {
  const known = new Map([...list.children].map(child => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child) known.delete(key);
    else {
      child = make(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else list.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}
