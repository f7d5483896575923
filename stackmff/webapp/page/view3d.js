// The 3D view: the fused picture draped over its heights, which can be turned.

const VERTEX = `
attribute vec2 at;
attribute vec2 height; // height, and brightness
uniform mat4 view;
uniform vec2 half_size;
varying vec2 place;
varying float light;
void main() {
  place = at;
  light = height.y;
  gl_Position = view * vec4((at.x - .5) * 2. * half_size.x, (.5 - at.y) * 2. * half_size.y,
    height.x, 1.);
}`;
const FRAGMENT = `
precision mediump float;
uniform sampler2D picture;
varying vec2 place;
varying float light;
void main() { gl_FragColor = vec4(texture2D(picture, place).rgb * light, 1.); }`;

export class View3D {
  /** tallest: height of the highest point, in units of the longer side */
  constructor(canvas, tallest) {
    this.canvas = canvas;
    this.tallest = tallest;
    this.turn = -0.28;
    this.tilt = 0.7;
    this.distance = 1.25;
    this.program = this.texture = this.buffers = null;
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      this.last = [event.clientX, event.clientY];
    });
    canvas.addEventListener("pointermove", event => {
      if (!this.last) return;
      this.move(event.clientX - this.last[0], event.clientY - this.last[1]);
      this.last = [event.clientX, event.clientY];
    });
    canvas.addEventListener("keydown", event => {
      const way = {
        ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
      }[event.key];
      if (way) this.move(...way.map(step => 12 * step));
      else if ("+=-".includes(event.key)) this.zoom(event.key === "-" ? 60 : -60);
      else return;
      event.preventDefault();
    });
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, () => (this.last = null));
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      this.zoom(event.deltaY);
    }, { passive: false });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  move(right, down) {
    this.turn += right * 0.008;
    this.tilt = Math.min(Math.max(this.tilt + down * 0.006, 0), 1.45);
    this.draw();
  }

  zoom(away) {
    this.distance = Math.min(Math.max(this.distance * 2 ** (away / 600), 0.5), 5);
    this.draw();
  }

  async show(data) {
    // data: see Result.surface of results.py.
    const length = new DataView(data).getUint32(0, true);
    const levels = new Uint16Array(data.slice(4, 4 + length));
    const [width, height] = levels;
    const image = await createImageBitmap(new Blob([data.slice(4 + length)]));
    const gl = this.gl || this.canvas.getContext("webgl", { antialias: true });
    if (!gl) throw new Error("this browser does not support WebGL: enable it, or use another browser");
    this.gl = gl;
    if (!gl.getExtension("OES_element_index_uint"))
      throw new Error("the WebGL of this browser is too old: use another browser");
    this.program ||= this.build(gl);
    this.fill(gl, levels.subarray(2), width, height);
    const side = Math.max(width, height);
    this.half = [width / side / 2, height / side / 2];
    gl.bindTexture(gl.TEXTURE_2D, (this.texture ||= gl.createTexture()));
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, image);
    for (const [name, value] of [
      [gl.TEXTURE_MIN_FILTER, gl.LINEAR], [gl.TEXTURE_MAG_FILTER, gl.LINEAR],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    ]) gl.texParameteri(gl.TEXTURE_2D, name, value);
    this.draw();
  }

  build(gl) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    return program;
  }

  fill(gl, levels, width, height) {
    const side = Math.max(width, height);
    const at = new Float32Array(width * height * 2);
    const high = new Float32Array(width * height * 2);
    const z = (x, y) => {
      const column = Math.min(Math.max(x, 0), width - 1);
      return (levels[Math.min(Math.max(y, 0), height - 1) * width + column] / 65535) * this.tallest;
    };
    for (let y = 0, k = 0; y < height; y++)
      for (let x = 0; x < width; x++, k += 2) {
        [at[k], at[k + 1]] = [(x + 0.5) / width, (y + 0.5) / height];
        // Light from the left, from above and from behind the viewer.
        const slope = [(z(x + 1, y) - z(x - 1, y)) * side / 2, (z(x, y + 1) - z(x, y - 1)) * side / 2];
        const long = Math.hypot(slope[0], slope[1], 1);
        const lit = (slope[0] * 0.45 + slope[1] * 0.4 + 0.8) / long;
        high[k] = z(x, y);
        high[k + 1] = Math.min(Math.max(0.45 + 0.69 * lit, 0.5), 1.2);
      }
    const corners = new Uint32Array((width - 1) * (height - 1) * 6);
    for (let y = 0, k = 0; y < height - 1; y++)
      for (let x = 0; x < width - 1; x++, k += 6) {
        const a = y * width + x;
        corners.set([a, a + 1, a + width, a + 1, a + width + 1, a + width], k);
      }
    this.count = corners.length;
    this.buffers ||= [gl.createBuffer(), gl.createBuffer(), gl.createBuffer()];
    for (const [k, [name, values]] of Object.entries({ at, height: high }).entries()) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[k]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      const place = gl.getAttribLocation(this.program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 2, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers[2]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  }

  view(aspect) {
    // Rotated about the axis normal to the picture, tilted, moved away; column by column.
    const [c, s, d, t] = [
      Math.cos(this.turn), Math.sin(this.turn), Math.cos(this.tilt), Math.sin(this.tilt),
    ];
    const rows = [
      [c, -s, 0, 0],
      [s * d, c * d, t, -0.03],
      [-s * t, -c * t, d, -this.distance],
    ];
    const [near, far, lens] = [0.05, 20, 2.2];
    const across = lens / Math.max(aspect, 1);
    const down = across * aspect;
    const last = rows[2].map((v, k) =>
      (v * (far + near)) / (near - far) + (k === 3 ? (2 * far * near) / (near - far) : 0));
    const all = [rows[0].map(v => v * across), rows[1].map(v => v * down), last,
      rows[2].map(v => -v)];
    return new Float32Array([0, 1, 2, 3].flatMap(column => all.map(row => row[column])));
  }

  draw() {
    const { gl, canvas } = this;
    if (!gl || !this.count || canvas.hidden) return;
    const box = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [box.width * ratio, box.height * ratio];
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(gl.getUniformLocation(this.program, "view"), false,
      this.view(canvas.width / canvas.height));
    gl.uniform2f(gl.getUniformLocation(this.program, "half_size"), ...this.half);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
  }
}
