// The picture on its canvas: tiles, panes, the comparison slider, zoom, overlays, brush, crop.

import { CropBox } from "./crop.js";
import { RegionOutlines } from "./regions.js";

const MOST_BYTES = 200e6; // of decoded tiles
const GRIP = 18; // px beside the line of the comparison slider where it can be dragged
const STILL = 4; // px; a pointer that moves less is a click
const LEAST_PRESSURE = 0.02;
const MARGIN = 12; // px around a picture that fits
const DIFFERENCE_GAIN = 8; // a power of two; tiles are JPEGs, whose errors must stay dark

/**
 * @typedef {{run: string, name: string, stamp?: string, least: number}} Layer
 *   of a result or a frame; stamp: of tiles that can change
 */

/** The pressure of a pen as a share, never nothing. */
const shareOf = event => Math.round(Math.max(event.pressure, LEAST_PRESSURE) * 1000) / 1000;

const coalesced = event => {
  const all = event.getCoalescedEvents?.() ?? [];
  return all.length ? all : [event];
};

export class PictureView {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} tile side of a tile, px
   * @param {Object<string, Function>} on {address(layer, level, column, row), probe(x, y),
   *   stroke(stroke), wiped(share), zoomed(scale, fitted), sharpest(x, y), step(way), cropped(box),
   *   pen(), region(index, way)}
   */
  constructor(canvas, tile, on) {
    this.canvas = canvas;
    this.on = on;
    this.side = tile;
    this.context = canvas.getContext("2d");
    this.cover = document.createElement("canvas"); // mask of a stroke that tiles do not show yet
    this.tiles = new Map();
    this.bytes = 0;
    this.picture = null; // {width, height}
    this.main = null; // Layer
    this.other = null; // Layer, or null
    this.mode = "single"; // or "wipe", "side" or "difference"
    this.flicker = false; // the other layer alone is shown
    this.scale = 1; // px of the screen per px of the picture
    this.x = this.y = 0; // px of the picture, at the centre of a pane
    this.fitted = true;
    this.enlarged = false; // whether a fitted picture may be larger than its pixels
    this.wipe = 0.5;
    this.overlay = null; // Layer
    this.opacity = 0.6;
    this.brush = null; // {frame: Layer or null, radius, softness, opacity}
    this.pressure = ""; // what the pressure of a pen sets: "size", "opacity" or nothing
    this.pen = false; // whether a pen was seen
    this.picking = false; // whether a click takes the sharpest frame in place of painting
    this.pointers = new Map();
    this.gesture = null;
    this.mark = null;
    this.cursor = null; // px of the picture
    this.unsettled = []; // strokes that the tiles do not show yet
    this.stamps = new Map(); // of tiles of the painted picture that have changed since its stamp
    this.crop = new CropBox(this);
    this.regions = new RegionOutlines(this);
    new ResizeObserver(() => this.resize()).observe(canvas);
    for (const kind of ["down", "move", "up", "cancel", "leave"])
      canvas.addEventListener("pointer" + kind, event => this[kind](event));
    canvas.addEventListener("wheel", event => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", event => this.key(event));
  }

  /**
   * @param {object} wanted
   * @param {{width: number, height: number}} wanted.picture
   * @param {Layer} wanted.main
   * @param {Layer|null} wanted.other
   * @param {string} wanted.mode "single", "wipe", "side" or "difference"
   * @param {Layer|null} wanted.overlay
   */
  show({ picture, main, other, mode, overlay }) {
    const before = this.picture;
    const another = this.main?.run !== main.run || this.main.name !== main.name;
    const restamped = !another && this.main.stamp !== main.stamp;
    const swap = mode !== this.mode;
    Object.assign(this, { picture, main, other, mode, overlay });
    if (another) {
      this.unsettled = [];
      this.mark = null;
    }
    if (another || restamped) this.stamps.clear();
    if (!before || before.width !== picture.width || before.height !== picture.height) {
      [this.fitted, this.enlarged] = [true, false];
      if (before) this.crop.box = null;
      this.resize();
    } else if (swap) this.settle();
    else this.draw();
  }

  /** Nothing is shown: another stack comes, whose pictures may have the names of these. */
  reset() {
    Object.assign(this, { picture: null, main: null, other: null, mark: null, gesture: null, unsettled: [] });
    this.stamps.clear();
    this.crop.box = null;
  }

  get pixels() {
    return window.devicePixelRatio || 1;
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !this.picture) return;
    this.canvas.width = Math.round(box.width * this.pixels);
    this.canvas.height = Math.round(box.height * this.pixels);
    this.settle();
  }

  /** The panes have other sizes: what is shown fits into them again, or keeps its size. */
  settle() {
    if (this.fitted) this.fit(this.enlarged);
    else this.zoomed();
  }

  // Places

  /** Whether two pictures lie one above the other, as they are larger then. */
  get stacked() {
    const { canvas, picture } = this;
    if (this.mode !== "side" || !this.other) return false;
    const room = (width, height) => Math.min(width / picture.width, height / picture.height);
    return room(canvas.width, canvas.height / 2) > room(canvas.width / 2, canvas.height);
  }

  /** The parts of the canvas: {layer, x, y, width, height}. The last one has the result. */
  panes() {
    const { width, height } = this.canvas;
    if (this.mode !== "side" || !this.other) return [{ layer: this.main, x: 0, y: 0, width, height }];
    const gap = 2 * this.pixels;
    if (!this.stacked) {
      const half = Math.floor((width - gap) / 2);
      return [{ layer: this.other, x: 0, y: 0, width: half, height },
        { layer: this.main, x: width - half, y: 0, width: half, height }];
    }
    const half = Math.floor((height - gap) / 2);
    return [{ layer: this.other, x: 0, y: 0, width, height: half },
      { layer: this.main, x: 0, y: height - half, width, height: half }];
  }

  paneAt([x, y]) {
    const inside = pane => x >= pane.x && y >= pane.y && x < pane.x + pane.width
      && y < pane.y + pane.height;
    return this.panes().find(inside) ?? this.panes().at(-1);
  }

  /** Px of the picture at px of the canvas. */
  place(x, y, pane = this.paneAt([x, y])) {
    return [
      this.x + (x - pane.x - pane.width / 2) / this.scale,
      this.y + (y - pane.y - pane.height / 2) / this.scale,
    ];
  }

  /** Px of the canvas at px of the picture. */
  spot(px, py, pane = this.panes().at(-1)) {
    return [
      (px - this.x) * this.scale + pane.x + pane.width / 2,
      (py - this.y) * this.scale + pane.y + pane.height / 2,
    ];
  }

  /** Where the comparison slider is, px of the canvas: a share of the visible part of the picture. */
  line() {
    const [left, right] = this.edges();
    return left + (right - left) * this.wipe;
  }

  edges() {
    return [Math.max(this.spot(0, 0)[0], 0),
      Math.min(this.spot(this.picture.width, 0)[0], this.canvas.width)];
  }

  // Zoom

  /** Fits the picture into its pane; it is enlarged beyond its pixels only if that is asked for. */
  fit(enlarged = false) {
    if (!this.picture) return;
    const { width, height } = this.picture;
    const pane = this.panes()[0];
    const margin = 2 * MARGIN * this.pixels;
    const most = Math.min((pane.width - margin) / width, (pane.height - margin) / height);
    this.scale = Math.max(enlarged ? most : Math.min(most, 1), 1e-3);
    [this.x, this.y] = [width / 2, height / 2];
    [this.fitted, this.enlarged] = [true, enlarged];
    this.zoomed();
  }

  zoom(scale, x, y) {
    // The point of the picture at x, y of the canvas stays there.
    const pane = x === undefined ? this.panes().at(-1) : this.paneAt([x, y]);
    const [cx, cy] = [pane.x + pane.width / 2, pane.y + pane.height / 2];
    [x, y] = [x ?? cx, y ?? cy];
    const least = Math.min(0.05, 200 / Math.max(this.picture.width, this.picture.height));
    scale = Math.min(Math.max(scale, least), 32);
    const [px, py] = this.place(x, y, pane);
    this.x = px - (x - cx) / scale;
    this.y = py - (y - cy) / scale;
    this.scale = scale;
    this.fitted = false;
    this.zoomed();
  }

  zoomed() {
    this.hold();
    this.on.zoomed(this.scale, this.fitted);
    this.draw();
  }

  hold() {
    // A picture that is smaller than its pane is centred, a larger one fills it but for a margin.
    const pane = this.panes()[0];
    const held = (at, side, room) => {
      const half = (room / 2 - MARGIN * this.pixels) / this.scale;
      return half > side / 2 ? side / 2 : Math.min(Math.max(at, half), side - half);
    };
    this.x = held(this.x, this.picture.width, pane.width);
    this.y = held(this.y, this.picture.height, pane.height);
  }

  pan(right, down) {
    const before = [this.x, this.y];
    this.x -= right / this.scale;
    this.y -= down / this.scale;
    this.hold();
    if (this.x !== before[0] || this.y !== before[1]) this.fitted = false;
    this.draw();
  }

  // Drawing

  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      if (this.picture) this.paint();
    });
  }

  paint() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = this.scale < 2;
    for (const pane of this.panes()) {
      context.save();
      context.beginPath();
      context.rect(pane.x, pane.y, pane.width, pane.height);
      context.clip();
      this.paintPane(pane);
      context.restore();
    }
    this.canvas.parentElement.classList.toggle("stacked", this.stacked); // for the names in the corners
    if (this.wiping) this.paintLine(this.line());
    if (!this.flicker) this.regions.paint(context);
    if (this.mark) this.paintMark();
    if (this.crop.active) this.crop.paint(context);
    if (this.brush && this.cursor && !this.picking) for (const pane of this.panes()) this.paintCursor(pane);
    this.forget();
  }

  get wiping() {
    return this.mode === "wipe" && this.other && !this.flicker;
  }

  paintPane(pane) {
    const { context, canvas } = this;
    const painted = pane.layer === this.main;
    const shown = this.flicker && this.other ? this.other : pane.layer;
    if (this.mode === "difference" && this.other && shown === this.main) {
      this.paintDifference(pane);
      return;
    }
    // Under an overlay the picture is grey, so that the overlay's colours are seen on any picture.
    if (this.overlay && painted && shown === this.main) context.filter = "grayscale(1)";
    this.layer(context, shown, pane);
    context.filter = "none";
    if (shown !== this.main) return;
    this.paintUnsettled(pane);
    if (this.overlay) {
      context.globalAlpha = this.opacity;
      this.layer(context, this.overlay, pane);
      context.globalAlpha = 1;
    }
    if (!this.wiping) return;
    context.save();
    context.beginPath();
    context.rect(0, 0, this.line(), canvas.height);
    context.clip();
    context.clearRect(0, 0, this.line(), canvas.height);
    this.layer(context, this.other, pane);
    context.restore();
  }

  /** Draws how far the two pictures differ, enlarged: black where they are alike. */
  paintDifference(pane) {
    const { cover, canvas } = this;
    [cover.width, cover.height] = [canvas.width, canvas.height];
    const context = cover.getContext("2d");
    this.layer(context, this.main, pane);
    context.globalCompositeOperation = "difference";
    this.layerInto(context, this.other, pane);
    context.globalCompositeOperation = "lighter"; // the sum of both: each time it is doubled
    for (let gain = 1; gain < DIFFERENCE_GAIN; gain *= 2) context.drawImage(cover, 0, 0);
    this.context.drawImage(cover, 0, 0);
  }

  layer(context, layer, pane) {
    // Coarser tiles stand in for those that are not loaded yet.
    const { width, height } = this.picture;
    const last = Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / this.side)), layer.least);
    const exact = Math.max(Math.floor(Math.log2(1 / this.scale) + 0.01), layer.least, 0);
    const wanted = Math.min(exact, last);
    const [left, top] = this.place(pane.x, pane.y, pane);
    const [right, bottom] = this.place(pane.x + pane.width, pane.y + pane.height, pane);
    for (let level = last; level >= wanted; level--) {
      const step = this.side * 2 ** level;
      const columns = [Math.max(0, Math.floor(left / step)), Math.min(right, width) / step];
      const rows = [Math.max(0, Math.floor(top / step)), Math.min(bottom, height) / step];
      for (let row = rows[0]; row < rows[1]; row++)
        for (let column = columns[0]; column < columns[1]; column++) {
          const image = this.tile(layer, level, column, row, level === wanted || level === last);
          if (!image) continue;
          const [x0, y0] = this.spot(column * step, row * step, pane);
          const [x1, y1] = this.spot(
            Math.min((column + 1) * step, width), Math.min((row + 1) * step, height), pane,
          );
          // Whole pixels, so that there is no seam between neighbours.
          const [a, b] = [Math.round(x0), Math.round(y0)];
          context.drawImage(image, a, b, Math.round(x1) - a, Math.round(y1) - b);
        }
    }
  }

  tile(layer, level, column, row, load) {
    const key = this.on.address(layer, level, column, row); // names recur in other stacks
    const stamp = layer.stamp && (this.stamps.get(`${level}/${column}/${row}`) ?? layer.stamp);
    let tile = this.tiles.get(key);
    if (tile) {
      this.tiles.delete(key); // to the end: the most recently used one is removed last
      this.tiles.set(key, tile);
    }
    if (load && (!tile || tile.asked !== stamp)) {
      tile = tile || { image: null, bytes: 0 };
      tile.asked = stamp;
      this.tiles.set(key, tile);
      const image = new Image();
      image.decoding = "async";
      const settle = () => {
        if (tile.asked === stamp) {
          if (image.naturalWidth) {
            this.bytes -= tile.bytes;
            tile.bytes = 4 * image.naturalWidth * image.naturalHeight;
            if (this.tiles.get(key) === tile) this.bytes += tile.bytes;
            tile.image = image;
          }
          tile.stamp = stamp;
          tile.settled = true;
        }
        this.draw();
      };
      tile.settled = false;
      image.onload = image.onerror = settle;
      image.src = key + (stamp ? `?v=${stamp}` : "");
    }
    return tile && tile.image;
  }

  forget() {
    for (const [key, tile] of this.tiles) {
      if (this.bytes <= MOST_BYTES) break;
      this.tiles.delete(key);
      this.bytes -= tile.bytes;
    }
  }

  get busy() {
    return [...this.tiles.values()].some(tile => !tile.settled);
  }

  /** Ask again for the tiles of the painted picture in boxes [top, bottom, left, right]. */
  changed(boxes, stamp) {
    const { width, height } = this.picture;
    const last = Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / this.side)));
    for (const [top, bottom, left, right] of boxes)
      for (let level = 0; level <= last; level++) {
        const step = this.side * 2 ** level;
        for (let row = Math.floor(top / step); row * step < bottom; row++)
          for (let column = Math.floor(left / step); column * step < right; column++)
            this.stamps.set(`${level}/${column}/${row}`, stamp);
      }
    this.draw();
  }

  paintUnsettled(pane) {
    // Strokes that the tiles do not show yet: the frame, masked by the stroke.
    this.unsettled = this.unsettled.filter(stroke => !stroke.sent || performance.now() < stroke.until);
    if (this.unsettled.some(stroke => stroke.done) && !this.busy) 
      this.unsettled = this.unsettled.filter(stroke => !stroke.done);
     else if (this.unsettled.some(stroke => stroke.sent)) setTimeout(() => this.draw(), 60);
    for (const stroke of this.unsettled) {
      const { cover } = this;
      [cover.width, cover.height] = [this.canvas.width, this.canvas.height];
      const context = cover.getContext("2d");
      const fade = stroke.radius * stroke.softness * this.scale;
      if (fade > 1) context.filter = `blur(${fade / 3}px)`;
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = Math.max(2 * stroke.radius * this.scale - fade, 1);
      this.trace(context, stroke, pane);
      context.filter = "none";
      context.globalCompositeOperation = "source-in";
      if (stroke.frame === null) {
        context.fillStyle = "rgb(255 255 255 / 0.4)"; // the fused picture comes with the tiles
        context.fillRect(0, 0, cover.width, cover.height);
      } else this.layerInto(context, stroke.frame, pane);
      this.context.globalAlpha = stroke.opacity;
      this.context.drawImage(cover, 0, 0);
      this.context.globalAlpha = 1;
    }
  }

  /** Draws the line of a stroke, each part with the size or opacity of its pressure. */
  trace(context, { points, shares, presses }, pane) {
    const spots = points.map(([x, y]) => this.spot(x + 0.5, y + 0.5, pane));
    const wide = context.lineWidth;
    const parts = shares ? spots.slice(0, -1).map((_, k) => [k, k + 1]) : [];
    if (!parts.length) parts.push([0, spots.length - 1]);
    for (const [from, to] of parts) {
      const share = shares ? (shares[from] + shares[to]) / 2 : 1;
      context.lineWidth = presses === "size" ? Math.max(wide * share, 1) : wide;
      context.globalAlpha = presses === "opacity" ? share : 1;
      context.beginPath();
      context.moveTo(...spots[from]);
      for (const spot of spots.slice(from + 1, to + 1)) context.lineTo(...spot);
      if (from === to) context.lineTo(spots[from][0] + 0.01, spots[from][1]);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  layerInto(context, layer, pane) {
    // "source-in" clears what a tile does not cover, so the layer is drawn as one picture.
    this.layerCanvas = this.layerCanvas || document.createElement("canvas");
    [this.layerCanvas.width, this.layerCanvas.height] = [this.canvas.width, this.canvas.height];
    this.layer(this.layerCanvas.getContext("2d"), layer, pane);
    context.drawImage(this.layerCanvas, 0, 0);
  }

  paintLine(line) {
    const { context, canvas, pixels } = this;
    const [top, bottom] = [
      Math.max(this.spot(0, 0)[1], 0),
      Math.min(this.spot(0, this.picture.height)[1], canvas.height),
    ];
    context.fillStyle = "white";
    context.shadowColor = "rgb(0 0 0 / 0.6)";
    context.shadowBlur = 4 * pixels;
    context.fillRect(line - pixels, top, 2 * pixels, bottom - top);
    const middle = (top + bottom) / 2;
    context.beginPath();
    context.arc(line, middle, 15 * pixels, 0, 7);
    context.fill();
    context.shadowBlur = 0;
    context.strokeStyle = "#444";
    context.lineWidth = 1.8 * pixels;
    context.lineCap = context.lineJoin = "round";
    for (const way of [-1, 1]) {
      context.beginPath();
      context.moveTo(line + way * 4 * pixels, middle - 4.5 * pixels);
      context.lineTo(line + way * 8.5 * pixels, middle);
      context.lineTo(line + way * 4 * pixels, middle + 4.5 * pixels);
      context.stroke();
    }
  }

  paintMark() {
    const { context, pixels } = this;
    const [x, y] = this.spot(this.mark[0] + 0.5, this.mark[1] + 0.5);
    const radius = Math.max(7 * pixels, this.scale);
    for (const { colour, wide } of [{ colour: "rgb(0 0 0 / 0.7)", wide: 4 }, { colour: "white", wide: 2 }]) {
      context.strokeStyle = colour;
      context.lineWidth = wide * pixels;
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.stroke();
    }
  }

  paintCursor(pane) {
    const { context, pixels } = this;
    const radius = this.brush.radius * this.scale;
    const [x, y] = this.spot(this.cursor[0], this.cursor[1], pane);
    const rings = [[radius, 1], [radius * (1 - this.brush.softness), 0.5]];
    context.save();
    context.beginPath();
    context.rect(pane.x, pane.y, pane.width, pane.height);
    context.clip();
    for (const [size, alpha] of rings)
      for (const { tone, wide } of [{ tone: "0 0 0", wide: 3 }, { tone: "255 255 255", wide: 1.4 }]) {
        context.strokeStyle = `rgb(${tone} / ${alpha})`;
        context.lineWidth = wide * pixels;
        context.beginPath();
        context.arc(x, y, Math.max(size, 1), 0, 7);
        context.stroke();
      }
    context.restore();
  }

  // Input

  /** @returns {[number, number]} px of the canvas */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.pixels, (event.clientY - box.top) * this.pixels];
  }

  down(event) {
    if (!this.picture || event.button > 1) return;
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.at(event);
    this.pointers.set(event.pointerId, at);
    if (event.pointerType === "pen" && !this.pen) {
      this.pen = true;
      this.on.pen();
    }
    if (this.pointers.size === 2) {
      this.gesture = { kind: "pinch", far: this.apart(), middle: this.middle() };
      this.unsettled = this.unsettled.filter(stroke => stroke.sent);
      return;
    }
    const near = this.wiping && Math.abs(at[0] - this.line()) < GRIP * this.pixels;
    const pane = this.paneAt(at);
    const ofSource = this.ofSource(pane);
    // Once a pen has been seen, fingers move the picture.
    const paints = this.brush && event.button === 0 && !event.shiftKey && !event.altKey && !this.picking
      && !ofSource && !(this.pen && event.pointerType === "touch");
    let kind = "pan";
    if (this.crop.active) kind = "crop";
    else if (paints) kind = "paint";
    else if (near) kind = "wipe";
    this.gesture = { kind, start: at, last: at, moved: false, alt: event.altKey || this.picking,
      shift: event.shiftKey, pane, ofSource };
    if (kind === "crop") this.crop.begin(this.place(...at));
    if (kind === "paint") {
      const pressed = event.pointerType === "pen" && this.pressure;
      this.unsettled.push({ ...this.brush, points: [this.pixel(at)], sent: false,
        shares: pressed ? [shareOf(event)] : null, presses: pressed });
      this.draw();
    }
  }

  /** Whether a pane shows what the brush takes: it is not painted, and drags move both pictures. */
  ofSource(pane) {
    return Boolean(this.brush) && pane.layer !== this.main;
  }

  apart() {
    const [[ax, ay], [bx, by]] = [...this.pointers.values()];
    return Math.max(Math.hypot(ax - bx, ay - by), 1);
  }

  middle() {
    const [[ax, ay], [bx, by]] = [...this.pointers.values()];
    return [(ax + bx) / 2, (ay + by) / 2];
  }

  pixel(at) {
    // Pixel centres are at whole numbers. A stroke that leaves its pane goes on beyond the edge.
    return this.place(...at, this.gesture?.pane).map(value => Math.round((value - 0.5) * 100) / 100);
  }

  move(event) {
    if (!this.picture) return;
    const at = this.at(event);
    this.cursor = this.place(...at);
    const gesture = this.gesture;
    if (!gesture) {
      const near = this.wiping && Math.abs(at[0] - this.line()) < GRIP * this.pixels;
      this.canvas.style.cursor = this.crop.active ? this.crop.cursor(this.cursor)
        : this.brush && !this.picking ? (this.ofSource(this.paneAt(at)) ? "grab" : "none")
          : near ? "ew-resize" : this.regions.at(this.cursor) < 0 ? "crosshair" : "pointer";
      if (this.brush) this.draw();
      return;
    }
    if (!this.pointers.has(event.pointerId)) return;
    this.pointers.set(event.pointerId, at);
    if (gesture.kind === "pinch") {
      const [far, middle] = [this.apart(), this.middle()];
      this.pan(middle[0] - gesture.middle[0], middle[1] - gesture.middle[1]);
      this.zoom((this.scale * far) / gesture.far, ...middle);
      Object.assign(gesture, { far, middle });
      return;
    }
    gesture.moved ||= Math.hypot(at[0] - gesture.start[0], at[1] - gesture.start[1]) > STILL * this.pixels;
    if (gesture.kind === "paint") 
      for (const one of coalesced(event)) this.lead(this.at(one), shareOf(one));
     else if (gesture.kind === "crop") 
      this.crop.lead(this.cursor);
     else if (gesture.kind === "wipe") {
      const [left, right] = this.edges();
      this.wipe = Math.min(Math.max((at[0] - left) / (right - left), 0), 1);
      this.on.wiped(this.wipe);
    } else if (gesture.moved) this.pan(at[0] - gesture.last[0], at[1] - gesture.last[1]);
    gesture.last = at;
    this.draw();
  }

  lead(at, share, least = 0.1) {
    // Points closer than a tenth of the radius change nothing visible, and cost as much.
    const { points, radius, shares } = this.unsettled.at(-1);
    const [[x, y], [px, py]] = [this.pixel(at), points.at(-1)];
    if (Math.hypot(x - px, y - py) <= least * radius) return;
    points.push([x, y]);
    shares?.push(share);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const gesture = this.gesture;
    // The finger that stays after a pinch goes on to move the picture.
    const [rest] = this.pointers.values();
    this.gesture = gesture?.kind === "pinch" && rest
      ? { kind: "pan", start: rest, last: rest, moved: true } : null;
    if (!gesture || event.type === "pointercancel") return;
    if (gesture.kind === "paint") {
      const stroke = this.unsettled.at(-1);
      if (stroke && !stroke.sent) {
        if (gesture.moved) this.lead(gesture.last, stroke.shares?.at(-1), 0);
        this.on.stroke(stroke);
      }
    } else if (gesture.kind === "crop") 
      this.on.cropped(this.crop.whole());
     else if (gesture.kind === "pan" && !gesture.moved && (gesture.alt || !gesture.ofSource))
      this.click(this.place(...gesture.start), gesture);
    
    this.draw();
  }

  click(place, { alt = false, shift = false } = {}) {
    const [x, y] = place.map(Math.floor);
    if (x < 0 || y < 0 || x >= this.picture.width || y >= this.picture.height) return;
    if (alt) {
      this.on.sharpest(x, y);
      return;
    }
    const region = this.regions.at(place);
    if (region >= 0) {
      this.on.region(region, shift ? -1 : 1);
      return;
    }
    this.mark = [x, y];
    this.on.probe(x, y);
    this.draw();
  }

  cancel(event) {
    this.unsettled = this.unsettled.filter(stroke => stroke.sent);
    this.up(event);
  }

  leave() {
    this.cursor = null;
    this.draw();
  }

  key(event) {
    if (!this.picture || event.ctrlKey || event.metaKey) return;
    const way = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (way && event.altKey && this.wiping) {
      this.wipe = Math.min(Math.max(this.wipe - 0.02 * way[0], 0), 1);
      this.on.wiped(this.wipe);
      this.draw();
    } else if (event.altKey) return;
    else if (way && this.crop.active) {
      this.crop.step(way.map(side => -side), event.shiftKey);
      this.on.cropped(this.crop.whole());
      this.draw();
    } else if (way && this.brush && way[1] && !event.shiftKey) this.on.step(-way[1]);
    else if (way) this.pan(...way.map(side => (side * this.canvas.height) / 8));
    else if ("+=-".includes(event.key)) this.zoom(this.scale * 2 ** (event.key === "-" ? -0.5 : 0.5));
    else if (event.key === "Enter" && this.brush && !this.picking) this.dab();
    else if (event.key === "Enter")
      this.click([this.x, this.y], { alt: this.picking, shift: event.shiftKey });
    else return;
    if (this.brush) this.cursor = [this.x, this.y]; // where Enter paints
    event.preventDefault();
  }

  /** Paints the middle of a pane, as the keyboard asks. */
  dab() {
    const stroke = { ...this.brush, points: [[this.x - 0.5, this.y - 0.5]], sent: false, shares: null,
      presses: "" };
    this.unsettled.push(stroke);
    this.on.stroke(stroke);
    this.draw();
  }

  wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.zoom(this.scale * 2 ** (-event.deltaY * lines / 240), ...this.at(event));
  }
}
