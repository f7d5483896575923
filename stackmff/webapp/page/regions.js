// The regions where something moved, outlined over the result; see fusion/regions.py.

const [DARK, BRIGHT] = ["rgb(0 0 0 / 0.7)", "#ffd43b"];
const LABEL = 12; // px of the screen, the size of a number

/**
 * @typedef {object} Place a region, as Region.record writes it
 * @property {[number, number]} size of the picture, px
 * @property {[number, number]} grid rows and columns of the cells of the whole picture
 * @property {number} top cells
 * @property {number} left cells
 * @property {number[][]} rows start, stop, start, stop ... of each row, from `left`
 */

/**
 * The outline of a region, in px of the picture.
 * @type {(place: Place) => Path2D}
 */
function outline({ size, grid, top, left, rows }) {
  const path = new Path2D();
  const [high, wide] = [size[0] / grid[0], size[1] / grid[1]];
  const line = (x0, y0, x1, y1) => {
    path.moveTo((left + x0) * wide, (top + y0) * high);
    path.lineTo((left + x1) * wide, (top + y1) * high);
  };
  rows.forEach((row, y) => row.forEach(x => line(x, y, x, y + 1)));
  for (let y = 0; y <= rows.length; y++) {
    // Between two rows there is a line wherever only one of them belongs to the region.
    const ends = [...(rows[y - 1] ?? []), ...(rows[y] ?? [])].sort((a, b) => a - b);
    for (let k = 0; k < ends.length; k += 2) if (ends[k] < ends[k + 1]) line(ends[k], y, ends[k + 1], y);
  }
  return path;
}

/**
 * Whether a place of the picture is in a region.
 * @type {(place: Place, x: number, y: number) => boolean}
 */
function covers({ size, grid, top, left, rows }, x, y) {
  const column = Math.floor((x * grid[1]) / size[1]) - left;
  const row = rows[Math.floor((y * grid[0]) / size[0]) - top] ?? [];
  return row.filter(end => end <= column).length % 2 === 1;
}

export class RegionOutlines {
  constructor(view) {
    this.view = view;
    /** @type {{place: Place, path: Path2D}[]} */
    this.shown = [];
    this.of = null;
  }

  /** @param {{region: Place}[]} regions that are outlined from now on */
  show(regions) {
    if (regions === this.of) return;
    this.of = regions;
    this.shown = regions.map(({ region }) => ({ place: region, path: outline(region) }));
  }

  /**
   * The index of the region at a place [x, y] of the picture, or -1.
   * @type {(place: number[]) => number}
   */
  at([x, y]) {
    return this.shown.findIndex(({ place }) => covers(place, x, y));
  }

  paint(context) {
    const { view } = this;
    const { pixels, scale } = view;
    this.shown.forEach(({ place, path }, k) => {
      context.save();
      context.translate(...view.spot(0, 0));
      context.scale(scale, scale);
      context.lineCap = "square";
      for (const { colour, wide } of [{ colour: DARK, wide: 3.5 }, { colour: BRIGHT, wide: 1.5 }]) {
        context.strokeStyle = colour;
        context.lineWidth = (wide * pixels) / scale;
        context.stroke(path);
      }
      context.restore();
      this.paintNumber(context, place, String(k + 1));
    });
  }

  paintNumber(context, { size, grid, top, left, rows }, text) {
    const { view } = this;
    const side = LABEL * view.pixels;
    const first = left + rows[0][0];
    const [x, y] = view.spot((first * size[1]) / grid[1], (top * size[0]) / grid[0]);
    context.save();
    context.font = `600 ${side}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    context.lineJoin = "round";
    context.lineWidth = 3 * view.pixels;
    context.strokeStyle = DARK;
    context.strokeText(text, x, y - side / 4);
    context.fillStyle = BRIGHT;
    context.fillText(text, x, y - side / 4);
    context.restore();
  }
}
