// The picture on its canvas: tiles, comparison slider, zoom, overlays, brush.

const TILE = 512;
const MOST_TILES = 400;
const GRIP = 16; // px beside the line of the comparison slider where it can be dragged
const STILL = 4; // px; a pointer that moves less is a click

export class PictureView {
  // on: {probe(x, y), stroke(points), wiped(share), zoomed(scale)}
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.context = canvas.getContext("2d");
    this.cover = document.createElement("canvas"); // mask of a stroke that tiles do not show yet
    this.tiles = new Map();
    this.picture = null;
    this.scale = 1; // px of the screen per px of the picture
    this.x = this.y = 0; // px of the picture, at the centre of the canvas
    this.fitted = true;
    this.wipe = 0.5;
    this.frame = 0;
    this.overlay = null;
    this.opacity = 0.6;
    this.brush = null; // {frame, radius, softness}
    this.pointers = new Map();
    this.gesture = null;
    this.mark = null;
    this.cursor = null;
    this.unsettled = []; // strokes that the tiles do not show yet
    this.versions = new Map(); // of tiles of the fused picture that have changed
    new ResizeObserver(() => this.resize()).observe(canvas);
    for (const kind of ["down", "move", "up", "cancel", "leave"])
      canvas.addEventListener("pointer" + kind, event => this[kind](event));
    canvas.addEventListener("wheel", event => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", event => this.key(event));
  }

  show(picture, address) {
    // picture: {run, width, height, names}; address(layer, level, column, row)
    const before = this.picture;
    this.address = address;
    this.picture = picture;
    if (!before || before.run !== picture.run) {
      this.versions.clear();
      this.unsettled = [];
      this.mark = null;
      this.frame = Math.min(this.frame, picture.names.length - 1);
      if (before && !this.fitted) {
        // The full picture replaces its draft.
        const ratio = picture.width / before.width;
        this.x *= ratio;
        this.y *= ratio;
        this.scale /= ratio;
      }
    }
    this.resize();
  }

  get pixels() {
    return window.devicePixelRatio || 1;
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !this.picture) return;
    this.canvas.width = Math.round(box.width * this.pixels);
    this.canvas.height = Math.round(box.height * this.pixels);
    if (this.fitted) this.fit();
    else this.draw();
  }

  fit() {
    const { width, height } = this.picture;
    const margin = 12 * this.pixels;
    this.scale = Math.min(
      (this.canvas.width - 2 * margin) / width, (this.canvas.height - 2 * margin) / height,
    );
    [this.x, this.y] = [width / 2, height / 2];
    this.fitted = true;
    this.zoomed();
  }

  zoom(scale, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    // The point of the picture at x, y of the canvas stays there.
    const least = Math.min(0.05, 200 / Math.max(this.picture.width, this.picture.height));
    scale = Math.min(Math.max(scale, least), 32);
    const [px, py] = this.place(x, y);
    this.x = px - (x - this.canvas.width / 2) / scale;
    this.y = py - (y - this.canvas.height / 2) / scale;
    this.scale = scale;
    this.fitted = false;
    this.zoomed();
  }

  zoomed() {
    this.hold();
    this.on.zoomed(this.scale);
    this.draw();
  }

  hold() {
    // Part of the picture stays visible.
    this.x = Math.min(Math.max(this.x, 0), this.picture.width);
    this.y = Math.min(Math.max(this.y, 0), this.picture.height);
  }

  place(x, y) {
    return [
      this.x + (x - this.canvas.width / 2) / this.scale,
      this.y + (y - this.canvas.height / 2) / this.scale,
    ];
  }

  spot(px, py) {
    return [
      (px - this.x) * this.scale + this.canvas.width / 2,
      (py - this.y) * this.scale + this.canvas.height / 2,
    ];
  }

  line() {
    // Where the comparison slider is, px of the canvas: a share of the visible part of the picture.
    const left = Math.max(this.spot(0, 0)[0], 0);
    const right = Math.min(this.spot(this.picture.width, 0)[0], this.canvas.width);
    return left + (right - left) * this.wipe;
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
    const line = this.line();
    const comparing = this.wipe > 0 && !this.brush;
    this.layer(context, "fused");
    this.paintUnsettled();
    if (this.overlay) {
      // Certain pixels are white: multiplication leaves them unchanged.
      if (this.overlay === "confidence") context.globalCompositeOperation = "multiply";
      context.globalAlpha = this.opacity;
      this.layer(context, this.overlay);
      context.globalAlpha = 1;
      context.globalCompositeOperation = "source-over";
    }
    if (comparing) {
      context.save();
      context.beginPath();
      context.rect(0, 0, line, canvas.height);
      context.clip();
      context.clearRect(0, 0, line, canvas.height);
      this.layer(context, String(this.frame));
      context.restore();
    }
    if (!this.brush) this.paintLine(line);
    if (this.mark) this.paintMark();
    if (this.brush && this.cursor) this.paintCursor();
    this.forget();
  }

  layer(context, name) {
    // Coarser tiles stand in for those that are not loaded yet.
    const { width, height } = this.picture;
    const last = Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / TILE)));
    const wanted = Math.min(Math.max(Math.floor(Math.log2(1 / this.scale) + 0.01), 0), last);
    for (let level = last; level >= wanted; level--) {
      const step = TILE * 2 ** level;
      const [left, top] = this.place(0, 0);
      const [right, bottom] = this.place(this.canvas.width, this.canvas.height);
      const columns = [Math.max(0, Math.floor(left / step)), Math.min(right, width) / step];
      const rows = [Math.max(0, Math.floor(top / step)), Math.min(bottom, height) / step];
      for (let row = rows[0]; row < rows[1]; row++)
        for (let column = columns[0]; column < columns[1]; column++) {
          const image = this.tile(name, level, column, row, level === wanted || level === last);
          if (!image) continue;
          const [x0, y0] = this.spot(column * step, row * step);
          const [x1, y1] = this.spot(
            Math.min((column + 1) * step, width), Math.min((row + 1) * step, height),
          );
          // Whole pixels, so that there is no seam between neighbours.
          const [a, b] = [Math.round(x0), Math.round(y0)];
          context.drawImage(image, a, b, Math.round(x1) - a, Math.round(y1) - b);
        }
    }
  }

  tile(name, level, column, row, load) {
    const key = `${this.picture.run}/${name}/${level}/${column}/${row}`;
    const version = (name === "fused" && this.versions.get(`${level}/${column}/${row}`)) || 0;
    let tile = this.tiles.get(key);
    if (tile) {
      this.tiles.delete(key); // to the end: the most recently used one is removed last
      this.tiles.set(key, tile);
    }
    if (load && (!tile || tile.asked !== version)) {
      tile = tile || { image: null };
      tile.asked = version;
      this.tiles.set(key, tile);
      const image = new Image();
      const settle = () => {
        if (tile.asked === version) {
          if (image.naturalWidth) tile.image = image;
          tile.version = version;
        }
        this.draw();
      };
      image.onload = image.onerror = settle;
      image.src = `${this.address(name, level, column, row)}?v=${version}`;
    }
    return tile && tile.image;
  }

  forget() {
    for (const key of this.tiles.keys()) {
      if (this.tiles.size <= MOST_TILES) break;
      this.tiles.delete(key);
    }
  }

  get busy() {
    return [...this.tiles.values()].some(tile => tile.version !== tile.asked);
  }

  changed(boxes, version) {
    // boxes: [top, bottom, left, right] of the fused picture that have changed.
    const { width, height } = this.picture;
    const last = Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / TILE)));
    for (const [top, bottom, left, right] of boxes)
      for (let level = 0; level <= last; level++) {
        const step = TILE * 2 ** level;
        for (let row = Math.floor(top / step); row * step < bottom; row++)
          for (let column = Math.floor(left / step); column * step < right; column++)
            this.versions.set(`${level}/${column}/${row}`, version);
      }
    this.draw();
  }

  paintUnsettled() {
    // Strokes that the tiles do not show yet: the frame, masked by the stroke.
    this.unsettled = this.unsettled.filter(stroke => !stroke.sent || performance.now() < stroke.until);
    if (this.unsettled.some(stroke => stroke.sent) && !this.busy) {
      this.unsettled = this.unsettled.filter(stroke => !stroke.sent);
    } else if (this.unsettled.some(stroke => stroke.sent)) setTimeout(() => this.draw(), 60);
    for (const stroke of this.unsettled) {
      const { cover } = this;
      [cover.width, cover.height] = [this.canvas.width, this.canvas.height];
      const context = cover.getContext("2d");
      const fade = stroke.radius * stroke.softness * this.scale;
      if (fade > 1) context.filter = `blur(${fade / 3}px)`;
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = Math.max(2 * stroke.radius * this.scale - fade, 1);
      context.beginPath();
      stroke.points.forEach(([x, y], k) =>
        context[k ? "lineTo" : "moveTo"](...this.spot(x + 0.5, y + 0.5)));
      if (stroke.points.length === 1)
        context.lineTo(...this.spot(stroke.points[0][0] + 0.51, stroke.points[0][1] + 0.5));
      context.stroke();
      context.filter = "none";
      context.globalCompositeOperation = "source-in";
      if (stroke.frame === null) {
        context.fillStyle = "rgb(255 255 255 / 0.4)"; // the fused picture comes with the tiles
        context.fillRect(0, 0, cover.width, cover.height);
      } else this.layerInto(context, String(stroke.frame));
      this.context.drawImage(cover, 0, 0);
    }
  }

  layerInto(context, name) {
    // "source-in" clears what a tile does not cover, so the layer is drawn as one picture.
    this.layerCanvas = this.layerCanvas || document.createElement("canvas");
    [this.layerCanvas.width, this.layerCanvas.height] = [this.canvas.width, this.canvas.height];
    this.layer(this.layerCanvas.getContext("2d"), name);
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
    for (const [colour, wide] of [["rgb(0 0 0 / 0.7)", 4], ["white", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = wide * pixels;
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.stroke();
    }
  }

  paintCursor() {
    const { context, pixels } = this;
    const radius = this.brush.radius * this.scale;
    const rings = [[radius, 1], [radius * (1 - this.brush.softness), 0.5]];
    for (const [size, alpha] of rings)
      for (const [colour, wide] of [[`rgb(0 0 0 / ${alpha})`, 3], [`rgb(255 255 255 / ${alpha})`, 1.4]]) {
        context.strokeStyle = colour;
        context.lineWidth = wide * pixels;
        context.beginPath();
        context.arc(...this.cursor, Math.max(size, 1), 0, 7);
        context.stroke();
      }
  }

  // Input

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.pixels, (event.clientY - box.top) * this.pixels];
  }

  down(event) {
    if (!this.picture || event.button > 1) return;
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.at(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size === 2) {
      this.gesture = { kind: "pinch", far: this.apart() };
      this.unsettled = this.unsettled.filter(stroke => stroke.sent);
      return;
    }
    const near = Math.abs(at[0] - this.line()) < GRIP * this.pixels;
    let kind = "pan";
    if (this.brush && event.button === 0 && !event.shiftKey) kind = "paint";
    else if (!this.brush && near) kind = "wipe";
    this.gesture = { kind, start: at, last: at, moved: false };
    if (kind === "paint") {
      this.unsettled.push({ ...this.brush, points: [this.pixel(at)], sent: false });
      this.draw();
    }
  }

  apart() {
    const [[ax, ay], [bx, by]] = [...this.pointers.values()];
    return Math.hypot(ax - bx, ay - by);
  }

  pixel(at) {
    // Pixel centres are at whole numbers.
    return this.place(...at).map(value => Math.round((value - 0.5) * 100) / 100);
  }

  move(event) {
    const at = this.at(event);
    this.cursor = at;
    const gesture = this.gesture;
    if (this.picture && !gesture) {
      const near = Math.abs(at[0] - this.line()) < GRIP * this.pixels;
      this.canvas.style.cursor = this.brush ? "none" : near ? "ew-resize" : "crosshair";
      if (this.brush) this.draw();
      return;
    }
    if (!gesture || !this.pointers.has(event.pointerId)) return;
    this.pointers.set(event.pointerId, at);
    if (gesture.kind === "pinch") {
      const far = this.apart();
      const [[ax, ay], [bx, by]] = [...this.pointers.values()];
      this.zoom((this.scale * far) / gesture.far, (ax + bx) / 2, (ay + by) / 2);
      gesture.far = far;
      return;
    }
    gesture.moved ||= Math.hypot(at[0] - gesture.start[0], at[1] - gesture.start[1]) > STILL * this.pixels;
    if (gesture.kind === "paint") {
      for (const one of event.getCoalescedEvents?.() ?? [event]) this.lead(this.at(one));
    } else if (gesture.kind === "wipe") {
      const left = Math.max(this.spot(0, 0)[0], 0);
      const right = Math.min(this.spot(this.picture.width, 0)[0], this.canvas.width);
      this.wipe = Math.min(Math.max((at[0] - left) / (right - left), 0), 1);
      this.on.wiped(this.wipe);
    } else if (gesture.moved) {
      this.x -= (at[0] - gesture.last[0]) / this.scale;
      this.y -= (at[1] - gesture.last[1]) / this.scale;
      this.fitted = false;
      this.hold();
    }
    gesture.last = at;
    this.draw();
  }

  lead(at, least = 0.1) {
    // Points closer than a tenth of the radius change nothing visible, and cost as much.
    const { points, radius } = this.unsettled.at(-1);
    const [[x, y], [px, py]] = [this.pixel(at), points.at(-1)];
    if (Math.hypot(x - px, y - py) > least * radius) points.push([x, y]);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const gesture = this.gesture;
    this.gesture = null;
    if (!gesture || event.type === "pointercancel") return;
    if (gesture.kind === "paint") {
      const stroke = this.unsettled.at(-1);
      if (stroke && !stroke.sent) {
        if (gesture.moved) this.lead(gesture.last, 0);
        this.on.stroke(stroke);
      }
    } else if (gesture.kind !== "pinch" && !gesture.moved) {
      this.click(this.place(...gesture.start));
    }
    this.draw();
  }

  click(place) {
    const [x, y] = place.map(Math.floor);
    if (x < 0 || y < 0 || x >= this.picture.width || y >= this.picture.height) return;
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
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    if (way) {
      const step = this.canvas.height / 8 / this.scale;
      this.x += way[0] * step;
      this.y += way[1] * step;
      this.fitted = false;
      this.hold();
      this.draw();
    } else if ("+=-".includes(event.key)) this.zoom(this.scale * 2 ** (event.key === "-" ? -0.5 : 0.5));
    else if (event.key === "Enter" && !this.brush) this.click([this.x, this.y]);
    else return;
    event.preventDefault();
  }

  wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.zoom(this.scale * 2 ** (-event.deltaY * lines / 240), ...this.at(event));
  }
}
