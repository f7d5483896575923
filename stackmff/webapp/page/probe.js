// The card that tells which frames a pixel comes from.

import { tell } from "./actions.js";
import { byId, element } from "./elements.js";
import { ask, ofStack } from "./server.js";
import { version } from "./store.js";

let probed = null; // the pixel whose shares are to be requested next
let requesting = false;

export async function probe(view, x, y) {
  const card = byId("probe");
  const { run } = version();
  try {
    const pixel = { ...await ask("GET", ofStack(`/pixel/${run}/${x}/${y}`)), run };
    if (!isMarked(view, pixel)) return; // another pixel was clicked meanwhile
    draw(pixel);
    card.hidden = false;
    probed = pixel;
    if (!requesting) await requestShares(view);
  } catch (error) {
    card.hidden = true;
    if (view.mark) tell(error); // else the card was closed, perhaps with its stack
  }
}

const isMarked = (view, pixel) => view.mark && view.mark[0] === pixel.x && view.mark[1] === pixel.y;

async function requestShares(view) {
  // One request at a time, for the latest click: the shares take a while on a busy machine, and
  // the next click must not wait for one of the six connections that a browser has.
  requesting = true;
  try {
    while (probed) {
      const pixel = probed;
      probed = null;
      const { origin } = await ask("GET", ofStack(`/mixture/${pixel.run}/${pixel.x}/${pixel.y}`));
      if (isMarked(view, pixel)) draw(pixel, origin);
    }
  } finally {
    requesting = false;
  }
}

const signed = (level) => (level > 0 ? `+${level}` : String(level).replace("-", "\u2212"));

function draw(pixel, origin) {
  const shares = origin?.shares;
  const { stroke: painted } = pixel;
  const retouched = painted && painted.frame !== null && painted.share > 0.5;
  const first = shares ? shares[0] : [pixel.frame, pixel.share];
  const mixed = shares ? first[1] < 0.9 : pixel.mixed;
  const title = retouched ? painted.frame : mixed ? `Blend, mostly ${first[0]}` : first[0];
  const parts = [element("b", title), element("small",
    `${retouched ? "retouched; " : ""}pixel ${pixel.x}, ${pixel.y}`)];
  if (shares)
    for (const [name, share] of shares.slice(0, 4)) {
      const line = element("div");
      line.append(element("span", name), element("span", `${Math.round(100 * share)} %`),
        element("meter", "", { value: share, ariaLabel: `Share of ${name}` }));
      parts.push(line);
    }
  if (origin?.added.some((level) => level !== 0))
    parts.push(element("small", `Corrected at the edge by ${origin.added.map(signed).join(", ")} of 255`));
  byId("probe-told").replaceChildren(...parts);
}
