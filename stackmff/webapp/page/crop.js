// The rectangle that an export is cropped to, drawn on the picture.

const EDGE = 10; // px of the screen around an edge where it can be dragged
const LEAST = 8; // px of the picture
const HANDLE = 8; // px of the screen, side of a handle

export class CropBox {
  constructor(view) {
    this.view = view;
    this.active = false;
    this.box = null; // [top, bottom, left, right], px
    this.held = null;
  }

  /** [top, bottom, left, right] in whole px, or null. */
  whole() {
    return this.box && this.box.map(Math.round);
  }

  /** Which edges are at a place: indices of the box; all four inside, none outside. */
  edges([x, y]) {
    if (!this.box) return [];
    const reach = (EDGE * this.view.pixels) / this.view.scale;
    const [top, bottom, left, right] = this.box;
    const inside = x > left - reach && x < right + reach && y > top - reach && y < bottom + reach;
    if (!inside) return [];
    const near = [[0, y - top], [1, y - bottom], [2, x - left], [3, x - right]]
      .filter(([, away]) => Math.abs(away) < reach).map(([edge]) => edge);
    return near.length ? near : [0, 1, 2, 3];
  }

  cursor(place) {
    const edges = this.edges(place);
    if (edges.length === 4) return "move";
    if (edges.length === 2)
      return ["0,2", "1,3"].includes(edges.join()) ? "nwse-resize" : "nesw-resize";
    return edges.length ? (edges[0] < 2 ? "ns-resize" : "ew-resize") : "crosshair";
  }

  begin(place) {
    const edges = this.edges(place);
    const [x, y] = this.clamped(place);
    this.held = { edges, from: place, box: this.box };
    if (!edges.length) this.held = { edges: [1, 3], from: place, box: [y, y, x, x] };
  }

  clamped([x, y]) {
    const { width, height } = this.view.picture;
    return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
  }

  lead(place) {
    const { edges, from, box } = this.held;
    const { width, height } = this.view.picture;
    let [right, down] = [place[0] - from[0], place[1] - from[1]];
    if (edges.length === 4) {
      right = Math.min(Math.max(right, -box[2]), width - box[3]);
      down = Math.min(Math.max(down, -box[0]), height - box[1]);
    }
    const moved = box.map((side, k) => side + (edges.includes(k) ? (k < 2 ? down : right) : 0));
    const [top, bottom] = moved.slice(0, 2).sort((a, b) => a - b).map(v => Math.min(Math.max(v, 0), height));
    const [left, east] = moved.slice(2).sort((a, b) => a - b).map(v => Math.min(Math.max(v, 0), width));
    if (bottom - top >= LEAST && east - left >= LEAST) this.box = [top, bottom, left, east];
  }

  /** Moves the box by a hundredth of the picture, or its lower right corner; makes it first. */
  step([across, down], resizes) {
    const { width, height } = this.view.picture;
    const step = Math.ceil(Math.max(width, height) / 100);
    this.box ??= [height / 10, 0.9 * height, width / 10, 0.9 * width].map(Math.round);
    this.held = { edges: resizes ? [1, 3] : [0, 1, 2, 3], from: [0, 0], box: this.box };
    this.lead([across * step, down * step]);
  }

  paint(context) {
    if (!this.box) return;
    const { view } = this;
    const [top, bottom, left, right] = this.box;
    const [x0, y0] = view.spot(left, top);
    const [x1, y1] = view.spot(right, bottom);
    context.save();
    context.fillStyle = "rgb(0 0 0 / 0.55)";
    context.beginPath();
    context.rect(0, 0, view.canvas.width, view.canvas.height);
    context.rect(x0, y0, x1 - x0, y1 - y0);
    context.fill("evenodd");
    context.strokeStyle = "white";
    context.lineWidth = 1.5 * view.pixels;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.globalAlpha = 0.4;
    for (const third of [1 / 3, 2 / 3]) {
      context.beginPath();
      context.moveTo(x0 + (x1 - x0) * third, y0);
      context.lineTo(x0 + (x1 - x0) * third, y1);
      context.moveTo(x0, y0 + (y1 - y0) * third);
      context.lineTo(x1, y0 + (y1 - y0) * third);
      context.stroke();
    }
    context.globalAlpha = 1;
    this.paintHandles(context, [x0, (x0 + x1) / 2, x1], [y0, (y0 + y1) / 2, y1]);
    context.restore();
  }

  paintHandles(context, across, down) {
    const side = HANDLE * this.view.pixels;
    context.fillStyle = "white";
    for (const [row, y] of down.entries())
      for (const [column, x] of across.entries())
        if (row !== 1 || column !== 1) context.fillRect(x - side / 2, y - side / 2, side, side);
  }
}
