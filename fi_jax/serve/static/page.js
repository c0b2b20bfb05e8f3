// Built by make page from sources of sha256 93f3b2b869521a3c5c97710ae64491084e13a1de62127a869a8473948728ed89
"use strict";
(() => {
  // api.ts
  async function ask(path, options = {}) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    if (answer.ok) return answer;
    const text = await answer.text();
    let detail = text || answer.statusText;
    try {
      detail = String(JSON.parse(text).detail ?? detail);
    } catch {
    }
    const wait = answer.headers.get("Retry-After");
    throw new Error(wait ? `The server is busy; try again in ${wait} s.` : detail);
  }
  function form(settings) {
    const data = new FormData();
    for (const [name, value2] of Object.entries(settings)) {
      if (value2 === null || value2 === void 0) continue;
      if (value2 instanceof Blob) data.append(name, value2, `${name}.bin`);
      else data.append(name, typeof value2 === "object" ? JSON.stringify(value2) : String(value2));
    }
    return data;
  }
  async function info() {
    return (await ask("api/info")).json();
  }
  async function faces(settings, signal) {
    const answer = await ask("api/faces", { method: "POST", body: form(settings), signal });
    return (await answer.json()).faces;
  }
  var sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  async function complete(settings, signal, onStatus) {
    const body = form(settings);
    const answer = await ask("api/completions", { method: "POST", body, signal });
    let status = await answer.json();
    const path = `api/completions/${status.id}`;
    const cancel = () => void fetch(path, { method: "DELETE", keepalive: true });
    signal.addEventListener("abort", cancel);
    try {
      for (; ; ) {
        onStatus(status);
        if (status.state === "done") return status;
        if (status.state === "failed") throw new Error(status.error);
        await sleep(300);
        status = await (await ask(path, { signal })).json();
      }
    } finally {
      signal.removeEventListener("abort", cancel);
    }
  }
  async function picture(id, what) {
    return (await ask(`api/completions/${id}/${what}`)).blob();
  }
  function forget(id) {
    void fetch(`api/completions/${id}`, { method: "DELETE", keepalive: true }).catch(() => void 0);
  }

  // history.ts
  var History = class {
    constructor(now) {
      this.now = now;
    }
    now;
    past = [];
    future = [];
    push(next) {
      this.past.push(this.now);
      this.now = next;
      this.future = [];
    }
    // Changes what is there without a step to go back to.
    replace(next) {
      this.now = next;
    }
    reset(start2) {
      [this.past, this.future, this.now] = [[], [], start2];
    }
    undo() {
      return this.step(this.past, this.future);
    }
    redo() {
      return this.step(this.future, this.past);
    }
    get canUndo() {
      return this.past.length > 0;
    }
    get canRedo() {
      return this.future.length > 0;
    }
    step(from, to) {
      const next = from.pop();
      if (next === void 0) return false;
      to.push(this.now);
      this.now = next;
      return true;
    }
  };

  // hole.ts
  var COLOUR = "#ff2d78";
  var LONGEST = 2048;
  var Hole = class {
    // canvas pixels to a photo pixel
    constructor(width, height) {
      this.width = width;
      this.height = height;
      this.scale = Math.min(1, LONGEST / Math.max(width, height));
      this.canvas.width = Math.max(1, Math.round(width * this.scale));
      this.canvas.height = Math.max(1, Math.round(height * this.scale));
      this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    }
    width;
    height;
    canvas = document.createElement("canvas");
    pen;
    scale;
    redraw(marks) {
      this.pen.setTransform(1, 0, 0, 1, 0, 0);
      this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
      for (const mark of marks) this.draw(mark);
    }
    // Draws a mark; of a stroke that goes on, what follows its point `from`.
    draw(mark, from = 0) {
      const pen = this.pen;
      const [sx, sy] = [this.canvas.width / this.width, this.canvas.height / this.height];
      pen.setTransform(sx, 0, 0, sy, 0, 0);
      pen.globalCompositeOperation = "source-over";
      pen.fillStyle = pen.strokeStyle = COLOUR;
      pen.lineCap = pen.lineJoin = "round";
      if (mark.kind === "image") {
        pen.drawImage(mark.image, 0, 0, this.width, this.height);
        return;
      }
      pen.beginPath();
      if (mark.kind === "stroke") {
        pen.globalCompositeOperation = mark.erase ? "destination-out" : "source-over";
        pen.lineWidth = 2 * mark.radius;
        const path = mark.path.slice(Math.max(0, from - 1));
        pen.moveTo(...path[0]);
        for (const point of path) pen.lineTo(...point);
        pen.stroke();
      } else {
        pen.lineWidth = 2 * mark.grow;
        pen.moveTo(...mark.path[0]);
        for (const point of mark.path) pen.lineTo(...point);
        pen.closePath();
        pen.fill();
        pen.stroke();
      }
    }
    // White where something is missing, black elsewhere; and which share of the photo that is.
    async exported() {
      const { width, height } = this.canvas;
      const pixels = this.pen.getImageData(0, 0, width, height);
      const data = pixels.data;
      let missing = 0;
      for (let i = 0; i < data.length; i += 4) {
        const value2 = data[i + 3] > 127 ? 255 : 0;
        missing += value2 / 255;
        data[i] = data[i + 1] = data[i + 2] = value2;
        data[i + 3] = 255;
      }
      const out = document.createElement("canvas");
      out.width = width;
      out.height = height;
      out.getContext("2d").putImageData(pixels, 0, 0);
      const png = await new Promise(
        (done, fail2) => out.toBlob((blob) => blob ? done(blob) : fail2(new Error("no memory for the hole")), "image/png")
      );
      return { png, share: missing / (width * height) };
    }
  };
  function fromPicture(picture2, width, height) {
    if (Math.abs(picture2.width * height - picture2.height * width) > 0.02 * picture2.width * height) {
      throw new Error(
        `The hole is ${picture2.width}×${picture2.height} and the photo ${width}×${height}: not the same shape.`
      );
    }
    const image = document.createElement("canvas");
    image.width = picture2.width;
    image.height = picture2.height;
    const pen = image.getContext("2d", { willReadFrequently: true });
    pen.drawImage(picture2, 0, 0);
    const pixels = pen.getImageData(0, 0, image.width, image.height);
    const data = pixels.data;
    const colour = [1, 3, 5].map((at2) => parseInt(COLOUR.slice(at2, at2 + 2), 16));
    for (let i = 0; i < data.length; i += 4) {
      const missing = Math.max(data[i], data[i + 1], data[i + 2]) > 127 && data[i + 3] > 127;
      [data[i], data[i + 1], data[i + 2]] = colour;
      data[i + 3] = missing ? 255 : 0;
    }
    pen.putImageData(pixels, 0, 0);
    return { kind: "image", image };
  }
  function outline(points) {
    const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const half = (list) => {
      const chain = [];
      for (const p of list) {
        while (chain.length > 1) {
          const [a, b] = chain.slice(-2);
          if ((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0) break;
          chain.pop();
        }
        chain.push(p);
      }
      return chain.slice(0, -1);
    };
    return [...half(sorted), ...half(sorted.reverse())];
  }
  function scratches([left, top, right, bottom]) {
    const size = Math.max(right - left, bottom - top);
    const within = (low, high, share) => low + (high - low) * share;
    return Array.from({ length: 3 }, () => {
      const upright = Math.random() < 0.5;
      const ends = [0, 1].map((end) => {
        const along = end ? 1.1 : -0.1;
        const across = 0.15 + 0.7 * Math.random();
        return upright ? [within(left, right, across), within(top, bottom, along)] : [within(left, right, along), within(top, bottom, across)];
      });
      const bend = (Math.random() - 0.5) * 0.3 * size;
      const path = Array.from({ length: 25 }, (_, i) => {
        const t = i / 24;
        const off = bend * 4 * t * (1 - t);
        return [
          within(ends[0][0], ends[1][0], t) + (upright ? off : 0),
          within(ends[0][1], ends[1][1], t) + (upright ? 0 : off)
        ];
      });
      return { kind: "stroke", erase: false, radius: Math.max(1, size * 0.012), path };
    });
  }

  // points.ts
  var SVG = "http://www.w3.org/2000/svg";
  var CHAINS = [
    [0, 16, false],
    [17, 21, false],
    [22, 26, false],
    [27, 30, false],
    [31, 35, false],
    [36, 41, true],
    [42, 47, true],
    [48, 59, true],
    [60, 67, true]
  ];
  function boxOf(points) {
    const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  }
  function moved(points, index, [dx, dy], reach, regions) {
    const part = Object.values(regions).find((members) => members.includes(index)) ?? [];
    const [left, top, right, bottom] = boxOf(points);
    const near = 0.06 * Math.hypot(right - left, bottom - top);
    const share = (i) => {
      if (i === index || reach === "face") return 1;
      if (reach === "part") return part.includes(i) ? 1 : 0;
      if (reach === "point" || !part.includes(i)) return 0;
      const [x, y] = [points[i][0] - points[index][0], points[i][1] - points[index][1]];
      return Math.exp(-(x * x + y * y) / (2 * near * near));
    };
    return points.map(([x, y], i) => [x + share(i) * dx, y + share(i) * dy]);
  }
  var PointLayer = class {
    // svg covers the stage, its units CSS pixels; onKey(index, event) moves a point by keyboard.
    constructor(svg, regions, onKey) {
      this.svg = svg;
      const group = document.createElementNS(SVG, "g");
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", "Face points");
      this.lines = CHAINS.map(() => {
        const line = document.createElementNS(SVG, "polyline");
        line.setAttribute("class", "line");
        return group.appendChild(line);
      });
      for (const [name, members] of Object.entries(regions)) {
        members.forEach((index, i) => this.names[index] = `${name.replace("_", " ")} ${i + 1}`);
      }
      this.dots = this.names.map((_, index) => {
        const dot = document.createElementNS(SVG, "circle");
        dot.setAttribute("class", "dot");
        dot.setAttribute("r", "3.5");
        dot.setAttribute("role", "button");
        dot.setAttribute("aria-roledescription", "movable point");
        dot.dataset.point = String(index);
        dot.addEventListener("keydown", (event) => onKey(index, event));
        dot.addEventListener("focus", () => this.activate(index));
        return group.appendChild(dot);
      });
      svg.append(group);
      this.activate(this.active);
    }
    svg;
    lines;
    dots;
    names = [];
    active = 30;
    // The one point that the Tab key reaches.
    activate(index) {
      this.dots[this.active].classList.remove("active");
      this.dots[this.active].tabIndex = -1;
      this.active = (index + this.dots.length) % this.dots.length;
      this.dots[this.active].classList.add("active");
      this.dots[this.active].tabIndex = 0;
    }
    focus(index) {
      this.activate(index);
      this.dots[this.active].focus({ preventScroll: true });
    }
    // Shows points given in CSS pixels of the stage, or hides them; photo: the same in photo pixels.
    show(points, photo2, canMove) {
      this.svg.toggleAttribute("hidden", points === null);
      this.svg.classList.toggle("movable", canMove);
      this.svg.setAttribute("aria-hidden", String(!canMove));
      if (!points || !photo2) return;
      this.dots.forEach((dot, i) => {
        dot.setAttribute("cx", points[i][0].toFixed(1));
        dot.setAttribute("cy", points[i][1].toFixed(1));
        dot.setAttribute("aria-label", this.describe(i, photo2));
      });
      CHAINS.forEach(([first, last, closed], i) => {
        const chain = points.slice(first, last + 1);
        if (closed) chain.push(points[first]);
        this.lines[i].setAttribute("points", chain.map((p) => p.map((v) => v.toFixed(1)).join()).join(" "));
      });
    }
    describe(index, photo2) {
      return `${this.names[index]}: ${photo2[index].map((v) => Math.round(v)).join(", ")}`;
    }
  };

  // view.ts
  var FINEST = 40;
  var at = (event, box) => [
    event.clientX - box.left,
    event.clientY - box.top
  ];
  var View = class {
    constructor(stage, canvas) {
      this.stage = stage;
      this.canvas = canvas;
      this.pen = canvas.getContext("2d");
      stage.addEventListener("pointerdown", (event) => this.down(event));
      stage.addEventListener("pointermove", (event) => this.moveTo(event));
      for (const name of ["pointerup", "pointercancel"]) {
        stage.addEventListener(name, (event) => this.up(event, name === "pointerup"));
      }
      stage.addEventListener("pointerleave", () => this.onHover(null));
      stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      new ResizeObserver(() => this.resized()).observe(stage);
    }
    stage;
    canvas;
    pen;
    pointers = /* @__PURE__ */ new Map();
    gesture = null;
    scale = 1;
    // CSS pixels to a photo pixel
    corner = [0, 0];
    // the photo's upper left, CSS pixels
    size = [1, 1];
    // of the stage, CSS pixels
    photo = [1, 1];
    pending = false;
    whole = true;
    // nobody has zoomed: keep showing all of it
    layers = () => [];
    begin = () => null;
    onChange = () => {
    };
    onHover = () => {
    };
    setPhoto(width, height) {
      this.photo = [width, height];
      this.resized();
      this.fit();
    }
    toStage([x, y]) {
      return [this.corner[0] + (x + 0.5) * this.scale, this.corner[1] + (y + 0.5) * this.scale];
    }
    toPhoto([x, y]) {
      return [(x - this.corner[0]) / this.scale - 0.5, (y - this.corner[1]) / this.scale - 0.5];
    }
    get zoom() {
      return this.scale;
    }
    get centre() {
      return this.toPhoto([this.size[0] / 2, this.size[1] / 2]);
    }
    fit(box = [-0.5, -0.5, this.photo[0] - 0.5, this.photo[1] - 0.5], margin = 0) {
      const [left, top, right, bottom] = box;
      const space = 1 - margin;
      this.whole = margin === 0;
      this.scale = Math.min(
        FINEST,
        space * this.size[0] / Math.max(right - left, 1e-3),
        space * this.size[1] / Math.max(bottom - top, 1e-3)
      );
      this.corner = [
        this.size[0] / 2 - ((left + right) / 2 + 0.5) * this.scale,
        this.size[1] / 2 - ((top + bottom) / 2 + 0.5) * this.scale
      ];
      this.settle();
    }
    // Zooms by a factor about a place of the stage, its middle where none is given.
    zoomBy(factor, about = [this.size[0] / 2, this.size[1] / 2]) {
      const smallest = Math.min(this.size[0] / this.photo[0], this.size[1] / this.photo[1]);
      const scale = Math.max(Math.min(smallest, 1), Math.min(FINEST, this.scale * factor));
      const ratio = scale / this.scale;
      this.corner = [0, 1].map((i) => about[i] - (about[i] - this.corner[i]) * ratio);
      this.scale = scale;
      this.whole = scale <= smallest;
      this.settle();
    }
    panBy([dx, dy]) {
      this.corner = [this.corner[0] + dx, this.corner[1] + dy];
      this.settle();
    }
    // Draws at the next frame, however often it is asked for.
    redraw() {
      if (this.pending) return;
      this.pending = true;
      requestAnimationFrame(() => {
        this.pending = false;
        this.draw();
      });
    }
    // No part of the stage stays empty that the photo could fill.
    settle() {
      this.corner = [0, 1].map((i) => {
        const room = this.size[i] - this.photo[i] * this.scale;
        return room >= 0 ? room / 2 : Math.max(room, Math.min(0, this.corner[i]));
      });
      this.redraw();
      this.onChange();
    }
    resized() {
      const box = this.stage.getBoundingClientRect();
      if (!box.width || !box.height) return;
      const centre = this.centre;
      this.size = [box.width, box.height];
      const density = Math.min(2, window.devicePixelRatio || 1);
      this.canvas.width = Math.round(box.width * density);
      this.canvas.height = Math.round(box.height * density);
      if (this.whole) return this.fit();
      const now = this.toStage(centre);
      this.panBy([box.width / 2 - now[0], box.height / 2 - now[1]]);
    }
    draw() {
      const pen = this.pen;
      const density = this.canvas.width / this.size[0];
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
      pen.setTransform(density, 0, 0, density, 0, 0);
      pen.imageSmoothingEnabled = this.scale < 8;
      pen.imageSmoothingQuality = "high";
      for (const { image, box, opacity } of this.layers()) {
        const [left, top] = this.toStage([box[0] - 0.5, box[1] - 0.5]);
        const [right, bottom] = this.toStage([box[2] - 0.5, box[3] - 0.5]);
        pen.globalAlpha = opacity;
        pen.drawImage(image, left, top, right - left, bottom - top);
      }
      pen.globalAlpha = 1;
    }
    down(event) {
      if (event.button > 1) return;
      const place = at(event, this.stage.getBoundingClientRect());
      this.stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, place);
      if (this.pointers.size > 1) {
        this.gesture?.end(false);
        this.gesture = null;
      } else {
        this.gesture = event.button === 1 ? null : this.begin(this.toPhoto(place), event);
      }
      event.preventDefault();
    }
    moveTo(event) {
      const place = at(event, this.stage.getBoundingClientRect());
      this.onHover(place);
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      if (this.gesture) {
        const events = event.getCoalescedEvents?.() ?? [];
        const box = this.stage.getBoundingClientRect();
        for (const one of events.length ? events : [event]) this.gesture.move(this.toPhoto(at(one, box)));
      } else if (this.pointers.size === 1) {
        this.panBy([place[0] - before[0], place[1] - before[1]]);
      } else {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
        this.panBy([(place[0] - before[0]) / 2, (place[1] - before[1]) / 2]);
        this.zoomBy(distance(place) / Math.max(distance(before), 1), [
          (place[0] + other[0]) / 2,
          (place[1] + other[1]) / 2
        ]);
      }
      this.pointers.set(event.pointerId, place);
    }
    up(event, done) {
      if (!this.pointers.delete(event.pointerId)) return;
      this.gesture?.end(done);
      this.gesture = null;
    }
    wheel(event) {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 300), at(event, this.stage.getBoundingClientRect()));
    }
  };

  // main.ts
  var byId = (id) => document.getElementById(id);
  var input = (id) => byId(id);
  var value = (id) => Number(input(id).value);
  var button = (id, act) => byId(id).addEventListener("click", act);
  var bench = byId("bench");
  var view = new View(byId("stage"), byId("picture"));
  var edit = new History({ marks: [], points: null, moved: false });
  var info2;
  var layer;
  var tool = "paint";
  var file = null;
  var fileName = "";
  var photo = null;
  var hole = new Hole(1, 1);
  var faces2 = [];
  var face = 0;
  var picked = null;
  var runs = [];
  var shown = null;
  var comparing = false;
  var around = null;
  var search = null;
  var searchSoon = 0;
  var work = null;
  var drawSoon = 0;
  var brushAt = [0, 0];
  function say(text, bad = false) {
    const message = byId("message");
    message.textContent = text;
    message.classList.toggle("bad", bad);
  }
  function mention(text) {
    if (!byId("message").classList.contains("bad")) say(text);
  }
  function fail(error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
  async function open(picture2, name) {
    if (picture2.size > info2.limits.bytes) {
      return say(`${name}: larger than the ${Math.round(info2.limits.bytes / 2 ** 20)} MB that the server reads.`, true);
    }
    let bitmap;
    try {
      bitmap = await createImageBitmap(picture2);
    } catch {
      return say(`${name}: not a picture that this browser shows; save it as JPEG, PNG or WebP.`, true);
    }
    if (bitmap.width * bitmap.height > info2.limits.pixels) {
      return say(`${name}: ${bitmap.width}×${bitmap.height} pixels; the server reads ${info2.limits.pixels / 1e6} million.`, true);
    }
    clearTimeout(drawSoon);
    work?.abort();
    search?.abort();
    runs.forEach((run) => forget(run.id));
    photo?.close();
    [file, fileName, photo] = [picture2, name, bitmap];
    hole = new Hole(bitmap.width, bitmap.height);
    [faces2, face, picked, runs, shown, around] = [[], 0, null, [], null, null];
    edit.reset({ marks: [], points: null, moved: false });
    brushAt = [bitmap.width / 2, bitmap.height / 2];
    bench.classList.remove("empty");
    byId("name").textContent = `${name}, ${bitmap.width}×${bitmap.height}`;
    view.setPhoto(bitmap.width, bitmap.height);
    say("");
    show();
    await findFaces(true);
  }
  async function findFaces(first = false, box = null) {
    clearTimeout(searchSoon);
    search?.abort();
    const mine = search = new AbortController();
    mention("Looking for the face…");
    try {
      const { png, share } = await hole.exported();
      const found = await faces({ photo: file, hole: share ? png : null, box }, mine.signal);
      if (mine.signal.aborted) return;
      faces2 = found;
      face = picked && !box ? nearest(found, picked) : 0;
      if (box) picked = box;
      if (!edit.now.moved) edit.replace({ ...edit.now, points: found[face]?.landmarks ?? null });
      if (!found.length) {
        say("No face found. Press “Mark the face” and draw a box around it, from brow to chin.", true);
      } else {
        const [left, top, right, bottom] = found[face].box;
        if (first && Math.max(right - left, bottom - top) * view.zoom < 200) zoomToFace();
        mention(share ? "" : "Paint over what shall be drawn anew, or press Eyes, Nose, Mouth or Scratch.");
      }
      show();
    } catch (error) {
      fail(error);
    }
  }
  function nearest(found, [left, top, right, bottom]) {
    const away = ({ box }) => Math.hypot(box[0] + box[2] - left - right, box[1] + box[3] - top - bottom);
    return found.reduce((best, one, i) => away(one) < away(found[best]) ? i : best, 0);
  }
  function zoomToFace() {
    const points = edit.now.points;
    if (points) view.fit(boxOf(points), 0.4);
  }
  function change(next) {
    const holeChanged = next.marks !== void 0;
    say("");
    edit.push({ ...edit.now, ...next });
    changed(holeChanged);
  }
  var live = () => tool === "points" && input("live").checked;
  function changed(holeChanged) {
    if (holeChanged || !live()) shown = null;
    if (holeChanged) {
      hole.redraw(edit.now.marks);
      clearTimeout(searchSoon);
      if (!edit.now.moved) searchSoon = window.setTimeout(() => void findFaces(), 700);
    }
    show();
  }
  function follow() {
    clearTimeout(drawSoon);
    if (!live()) return;
    drawSoon = window.setTimeout(() => {
      work?.abort();
      work = null;
      void complete2(true);
    }, 250);
  }
  function step(go, before = edit.now) {
    if (!go) return;
    changed(before.marks !== edit.now.marks);
    if (edit.now.moved) follow();
  }
  function stroke(start2) {
    shown = null;
    const erase = tool === "erase";
    const mark = { kind: "stroke", erase, radius: value("brush") / 2 / view.zoom, path: [start2] };
    hole.draw(mark);
    show();
    return {
      move(to) {
        mark.path.push(to);
        hole.draw(mark, mark.path.length - 1);
        view.redraw();
      },
      end(done) {
        if (done) change({ marks: [...edit.now.marks, mark] });
        else hole.redraw(edit.now.marks);
        show();
      }
    };
  }
  function dragPoint(start2, reachPixels) {
    const points = edit.now.points;
    if (!points) return null;
    const away = points.map((p) => Math.hypot(p[0] - start2[0], p[1] - start2[1]));
    const index = away.indexOf(Math.min(...away));
    if (away[index] * view.zoom > reachPixels) return null;
    const before = edit.now;
    layer.focus(index);
    let latest = points;
    return {
      move(to) {
        latest = move(points, index, [to[0] - start2[0], to[1] - start2[1]]);
        edit.replace({ ...before, points: latest });
        showPoints();
      },
      end(done) {
        edit.replace(before);
        if (!done || latest === points) return showPoints();
        change({ points: latest, moved: true });
        follow();
      }
    };
  }
  function move(points, index, by) {
    const reach = byId("reach").value;
    const [w, h] = [photo.width, photo.height];
    const clamp = (x, size) => Math.min(Math.max(x, -0.5 * size), 1.5 * size);
    return moved(points, index, by, reach, info2.regions).map(([x, y]) => [clamp(x, w), clamp(y, h)]);
  }
  function pointKey(index, event) {
    const steps = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1]
    };
    const by = steps[event.key];
    const points = edit.now.points;
    if (by && points) {
      const [left, , right] = boxOf(points);
      const far = (right - left) / 200 * (event.shiftKey ? 10 : 1);
      change({ points: move(points, index, [by[0] * far, by[1] * far]), moved: true });
      say(layer.describe(index, edit.now.points));
      follow();
    } else if (event.key === "," || event.key === ".") {
      layer.focus(index + (event.key === "," ? -1 : 1));
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
  function markBox(start2) {
    let end = start2;
    const box = () => [
      Math.min(start2[0], end[0]),
      Math.min(start2[1], end[1]),
      Math.max(start2[0], end[0]),
      Math.max(start2[1], end[1])
    ];
    return {
      move(to) {
        end = to;
        showMarks(box());
      },
      end(done) {
        showMarks();
        const [left, top, right, bottom] = box();
        if (!done || (right - left) * view.zoom < 12 || (bottom - top) * view.zoom < 12) return;
        setTool("points");
        edit.replace({ ...edit.now, moved: false });
        void findFaces(false, [left, top, right, bottom]);
      }
    };
  }
  function addToHole(what) {
    const { points, marks } = edit.now;
    if (!points) return say("Wait for the points, or paint the hole by hand.", true);
    const box = boxOf(points);
    const size = Math.max(box[2] - box[0], box[3] - box[1]);
    const part = (grow, ...names) => ({
      kind: "shape",
      grow: grow * size,
      path: outline(names.flatMap((name) => info2.regions[name].map((i) => points[i])))
    });
    const made = {
      eyes: () => [part(0.05, "right_brow", "right_eye"), part(0.05, "left_brow", "left_eye")],
      nose: () => [part(0.05, "nose")],
      // Its corners are found least surely; what is left of a smile would be continued.
      mouth: () => [part(0.09, "mouth")],
      scratch: () => scratches(box)
    };
    change({ marks: [...marks, ...made[what]()] });
  }
  async function complete2(follows = false) {
    if (!file || !photo || work) return;
    const { png, share } = await hole.exported();
    if (!share) return say("There is no hole yet: paint over what shall be drawn anew.", true);
    const mine = work = new AbortController();
    const kept = around;
    const settings = {
      photo: file,
      hole: png,
      num_samples: value("count"),
      seed: kept ? kept.run.seed : value("seed"),
      structure: value("structure"),
      appearance: value("appearance"),
      guidance: value("guidance"),
      keep: kept && kept.k,
      landmarks: edit.now.moved ? edit.now.points : null,
      // With it the network looks where the face was found, however far its points went.
      face: edit.now.moved || picked ? faces2[face]?.landmarks ?? null : null
    };
    showRun();
    say("");
    try {
      const status = await complete(settings, mine.signal, (now) => {
        const bar = byId("progress");
        const waits = now.state === "queued";
        if (waits || !now.done) bar.removeAttribute("value");
        else [bar.max, bar.value] = [now.total, now.done];
        byId("progress_text").textContent = waits ? `Waiting; ${now.ahead} before you` : now.done ? `Drawn ${now.done} of ${now.total}` : "Drawing… the first time takes longer";
      });
      const numbers = Array.from({ length: settings.num_samples }, (_, k2) => k2);
      const [differ, ...pictures] = await Promise.all(
        ["uncertainty", ...numbers.map((k2) => `previews/${k2}`)].map(
          async (what) => createImageBitmap(await picture(status.id, what))
        )
      );
      if (mine.signal.aborted) return;
      const title = kept ? `Around result ${kept.k + 1} of “${kept.run.title}”` : `${edit.now.moved ? "Your points, s" : "S"}eed ${status.seed}`;
      const run = { id: status.id, title, seed: status.seed, varied: kept !== null, live: follows, window: status.window, landmarks: status.landmarks, pictures, differ };
      const k = follows && shown ? Math.min(shown.k, pictures.length - 1) : 0;
      if (follows && runs[0]?.live) {
        forget(runs[0].id);
        runs.shift();
        byId("gallery").firstElementChild.remove();
      }
      runs = [run, ...runs].slice(0, 6);
      addRun(run);
      choose({ run, k });
      say(status.notes.map((note) => note[0].toUpperCase() + note.slice(1) + ".").join(" "));
      if (!follows) byId("results").scrollIntoView({ block: "nearest", behavior: "smooth" });
    } catch (error) {
      if (!mine.signal.aborted) fail(error);
      else if (work === mine) say("Cancelled.");
    } finally {
      if (work === mine) work = null;
      showRun();
    }
  }
  function addRun(run) {
    const box = document.createElement("div");
    box.className = "run";
    const title = box.appendChild(document.createElement("p"));
    title.textContent = run.title;
    const row = box.appendChild(document.createElement("div"));
    run.pictures.forEach((picture2, k) => {
      const thumb = row.appendChild(document.createElement("button"));
      thumb.type = "button";
      thumb.className = "thumb";
      thumb.dataset.result = `${run.id}/${k}`;
      thumb.setAttribute("aria-label", `Result ${k + 1} of ${run.pictures.length}, ${run.title}`);
      const canvas = thumb.appendChild(document.createElement("canvas"));
      canvas.width = canvas.height = 240;
      const side = Math.min(picture2.width, picture2.height);
      const [left, top] = [(picture2.width - side) / 2, (picture2.height - side) / 2];
      canvas.getContext("2d").drawImage(picture2, left, top, side, side, 0, 0, 240, 240);
      thumb.appendChild(document.createElement("span")).textContent = String(k + 1);
      thumb.addEventListener("click", () => choose({ run, k }));
    });
    const gallery = byId("gallery");
    gallery.prepend(box);
    while (gallery.children.length > runs.length) gallery.lastElementChild.remove();
  }
  function choose(next) {
    shown = next;
    show();
  }
  async function download(format) {
    if (!shown) return;
    const { run, k } = shown;
    say("Fetching the picture…");
    try {
      const picture2 = await picture(run.id, `images/${k}?format=${format}`);
      const stem = fileName.replace(/\.[^.]*$/, "") || "photo";
      save(picture2, `${stem}_completed_${k + 1}.${format === "png" ? "png" : "jpg"}`);
      say(format === "png" ? "Saved. Outside the hole, every pixel is the photo’s own." : "Saved.");
    } catch (error) {
      fail(error);
    }
  }
  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1e4);
  }
  view.layers = () => {
    if (!photo) return [];
    const whole = [0, 0, photo.width, photo.height];
    const layers = [{ image: photo, box: whole, opacity: 1 }];
    if (comparing) return layers;
    if (!shown) return [...layers, { image: hole.canvas, box: whole, opacity: 0.6 }];
    const { run, k } = shown;
    layers.push({ image: run.pictures[k], box: run.window, opacity: 1 });
    if (input("differ").checked) layers.push({ image: run.differ, box: run.window, opacity: 1 });
    return layers;
  };
  function show() {
    view.redraw();
    showPoints();
    showMarks();
    const ready = photo !== null;
    for (const one of document.querySelectorAll("#tools button, #panel button, #panel select")) {
      one.disabled = !ready;
    }
    byId("undo").disabled = !edit.canUndo;
    byId("redo").disabled = !edit.canRedo;
    byId("zoom_face").disabled = !edit.now.points;
    byId("reset_points").disabled = !ready;
    byId("results").hidden = runs.length === 0;
    bench.classList.toggle("finished", runs.length > 0);
    for (const one of document.querySelectorAll("#chosen button")) one.disabled = !shown;
    byId("vary").disabled = shown?.run.varied ?? true;
    byId("compare").disabled = !shown;
    if (!runs.length) byId("gallery").replaceChildren();
    for (const thumb of document.querySelectorAll(".thumb")) {
      const mine = shown !== null && thumb.dataset.result === `${shown.run.id}/${shown.k}`;
      thumb.setAttribute("aria-pressed", String(mine));
    }
    const seen = byId("seen");
    seen.hidden = !shown;
    const glow = input("differ").checked ? "; the brighter, the more they differ" : "";
    if (shown) seen.textContent = comparing ? "The photo" : `Result ${shown.k + 1}${glow}`;
    showFaces();
    showSliders();
    showRun();
  }
  function showPoints() {
    if (!layer) return;
    const points = edit.now.points;
    const visible = photo && points && (live() || !shown && (tool === "points" || input("show_points").checked));
    layer.show(visible ? points.map((p) => view.toStage(p)) : null, points, tool === "points");
  }
  function showMarks(box = null, at2 = null) {
    const marks = byId("marks");
    const shapes = [];
    const rectangle = (one) => {
      const [left, top] = view.toStage([one[0], one[1]]);
      const [right, bottom] = view.toStage([one[2], one[3]]);
      shapes.push(["rect", { x: left, y: top, width: right - left, height: bottom - top }, "face"]);
    };
    if (box) rectangle(box);
    else if (photo && faces2.length > 1 && !shown) faces2.forEach((one, i) => i === face && rectangle(one.box));
    if (at2) shapes.push(["circle", { cx: at2[0], cy: at2[1], r: value("brush") / 2 }, "brush"]);
    marks.replaceChildren(
      ...shapes.map(([name, numbers, kind]) => {
        const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
        shape.setAttribute("class", kind);
        for (const [key, number] of Object.entries(numbers)) shape.setAttribute(key, number.toFixed(1));
        return shape;
      })
    );
  }
  function showFaces() {
    const row = byId("faces");
    row.hidden = faces2.length < 2;
    row.replaceChildren(
      ...(faces2.length < 2 ? [] : faces2).map((one, i) => {
        const choice = document.createElement("button");
        choice.type = "button";
        choice.setAttribute("role", "radio");
        choice.setAttribute("aria-checked", String(i === face));
        choice.textContent = `Face ${i + 1}`;
        choice.addEventListener("click", () => {
          [face, picked] = [i, one.box];
          edit.push({ ...edit.now, points: one.landmarks, moved: false });
          changed(false);
          zoomToFace();
          byId("faces").querySelectorAll("button")[i].focus();
        });
        return choice;
      })
    );
  }
  function showSliders() {
    for (const name of ["brush", "count", "structure", "appearance", "guidance"]) {
      const share = name === "structure" || name === "appearance";
      byId(`${name}_out`).textContent = share ? `${Math.round(100 * value(name))} %` : input(name).value;
    }
    input("structure").disabled = edit.now.moved;
    input("structure").closest("label").classList.toggle("off", edit.now.moved);
    if (edit.now.moved) byId("structure_out").textContent = "your points";
    byId("around").hidden = around === null;
    if (around) byId("around").firstElementChild.textContent = `Around result ${around.k + 1} of “${around.run.title}”`;
  }
  function showRun() {
    byId("busy").hidden = work === null;
    byId("complete").hidden = work !== null;
    byId("complete").disabled = !photo;
  }
  function setTool(next) {
    tool = next;
    bench.dataset.tool = next;
    if (next !== "hand" && !live()) shown = null;
    for (const one of document.querySelectorAll("[role=radio][data-tool]")) {
      one.setAttribute("aria-checked", String(one.dataset.tool === next));
      one.tabIndex = one.dataset.tool === next ? 0 : -1;
    }
    show();
  }
  view.begin = (at2, event) => {
    if (!photo) return null;
    if (tool === "paint" || tool === "erase") return stroke(at2);
    if (tool === "box") return markBox(at2);
    return tool === "points" ? dragPoint(at2, event.pointerType === "mouse" ? 16 : 28) : null;
  };
  view.onChange = () => {
    showPoints();
    showMarks();
  };
  view.onHover = (at2) => {
    if (tool === "paint" || tool === "erase") showMarks(null, photo ? at2 : null);
  };
  function keyboardBrush(event) {
    if (!photo || tool !== "paint" && tool !== "erase") return;
    const steps = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1]
    };
    const by = steps[event.key];
    if (by) {
      const far = (event.shiftKey ? 1 : 0.25) * value("brush") / view.zoom;
      brushAt = [
        Math.min(Math.max(brushAt[0] + by[0] * far, 0), photo.width),
        Math.min(Math.max(brushAt[1] + by[1] * far, 0), photo.height)
      ];
    } else if (event.key === " ") {
      stroke(brushAt).end(true);
    } else {
      return;
    }
    showMarks(null, view.toStage(brushAt));
    event.preventDefault();
  }
  function shortcut(event) {
    const target = event.target;
    const typing = target.matches("input[type=number], select, textarea");
    if (!photo || typing || event.altKey) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      const before = edit.now;
      if (key === "z") step(event.shiftKey ? edit.redo() : edit.undo(), before);
      else if (key === "y") step(edit.redo(), before);
      else return;
      event.preventDefault();
      return;
    }
    const acts = {
      p: () => setTool("paint"),
      e: () => setTool("erase"),
      m: () => setTool("points"),
      h: () => setTool("hand"),
      f: zoomToFace,
      0: () => view.fit(),
      "+": () => view.zoomBy(1.4),
      "=": () => view.zoomBy(1.4),
      "-": () => view.zoomBy(1 / 1.4),
      c: () => compare(true),
      escape: () => work?.abort()
    };
    acts[key]?.();
  }
  function compare(on) {
    if (!shown || comparing === on) return;
    comparing = on;
    show();
  }
  function openFiles(files) {
    const picture2 = files?.[0];
    if (picture2) void open(picture2, picture2.name || "photo").catch(fail);
  }
  function wire() {
    const tools = [...document.querySelectorAll("[role=radio][data-tool]")];
    tools.forEach((one, i) => {
      one.addEventListener("click", () => setTool(one.dataset.tool));
      one.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        const next = tools[(i + by + tools.length) % tools.length];
        setTool(next.dataset.tool);
        next.focus();
      });
    });
    button("undo", () => {
      const before = edit.now;
      step(edit.undo(), before);
    });
    button("redo", () => {
      const before = edit.now;
      step(edit.redo(), before);
    });
    button("zoom_in", () => view.zoomBy(1.4));
    button("zoom_out", () => view.zoomBy(1 / 1.4));
    button("zoom_face", zoomToFace);
    button("zoom_all", () => view.fit());
    button("box", () => {
      setTool("box");
      say("Draw a box around the face, from brow to chin and from ear to ear.");
    });
    button("clear", () => change({ marks: [] }));
    button("reset_points", () => {
      edit.push({ ...edit.now, moved: false });
      void findFaces();
    });
    button("save_hole", async () => save((await hole.exported()).png, `${fileName.replace(/\.[^.]*$/, "")}_mask.png`));
    button("cancel", () => work?.abort());
    button("save_png", () => void download("png"));
    button("save_jpeg", () => void download("jpeg"));
    button("dice", () => {
      input("seed").value = String(Math.floor(Math.random() * 1e6));
    });
    button("vary", () => {
      if (!shown) return;
      around = shown;
      for (const name of ["structure", "appearance"]) if (value(name) === 1) input(name).value = "0.4";
      input("seed").value = String(shown.run.seed);
      show();
      byId("complete").focus();
      say("The next results stay near this one; the sliders say how near.");
    });
    byId("around").querySelector("button").addEventListener("click", () => {
      around = null;
      show();
    });
    button("take_points", () => {
      if (!shown) return;
      const points = shown.run.landmarks[shown.k];
      setTool("points");
      change({ points, moved: true });
    });
    for (const one of document.querySelectorAll("[data-hole]")) {
      one.addEventListener("click", () => addToHole(one.dataset.hole));
    }
    for (const name of ["brush", "count", "structure", "appearance", "guidance"]) {
      input(name).addEventListener("input", showSliders);
    }
    input("brush").addEventListener("input", () => {
      showMarks(null, view.toStage(view.centre));
    });
    input("brush").addEventListener("change", () => showMarks());
    input("show_points").addEventListener("change", showPoints);
    input("live").addEventListener("change", () => {
      if (input("live").checked) setTool("points");
      else show();
    });
    input("differ").addEventListener("change", show);
    const hold = byId("compare");
    hold.addEventListener("pointerdown", () => compare(true));
    for (const name of ["pointerup", "pointerleave", "pointercancel", "blur"]) {
      hold.addEventListener(name, () => compare(false));
    }
    hold.addEventListener("contextmenu", (event) => event.preventDefault());
    hold.addEventListener("keydown", (event) => {
      if (event.key === " " || event.key === "Enter") compare(true);
    });
    document.addEventListener("keyup", () => compare(false));
    input("photo").addEventListener("change", (event) => {
      const chooser = event.target;
      openFiles(chooser.files);
      chooser.value = "";
    });
    input("hole_file").addEventListener("change", async (event) => {
      const chooser = event.target;
      try {
        const picture2 = chooser.files?.[0];
        if (!picture2 || !photo) return;
        const mark = fromPicture(await createImageBitmap(picture2), photo.width, photo.height);
        change({ marks: [...edit.now.marks, mark] });
      } catch (error) {
        fail(error);
      } finally {
        chooser.value = "";
      }
    });
    byId("panel").addEventListener("submit", (event) => {
      event.preventDefault();
      void complete2();
    });
    byId("picture").addEventListener("keydown", keyboardBrush);
    document.addEventListener("keydown", shortcut);
    document.addEventListener("paste", (event) => openFiles(event.clipboardData?.files));
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      bench.classList.add("dragging");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) bench.classList.remove("dragging");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      bench.classList.remove("dragging");
      openFiles(event.dataTransfer?.files);
    });
    window.addEventListener("pagehide", () => {
      work?.abort();
      runs.forEach((run) => forget(run.id));
    });
  }
  async function start() {
    wire();
    setTool("paint");
    info2 = await info();
    layer = new PointLayer(byId("overlay"), info2.regions, pointKey);
    input("count").max = String(info2.limits.samples);
    input("guidance").value = String(info2.guidance);
    show();
  }
  start().catch(fail);
})();
