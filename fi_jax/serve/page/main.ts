// The page: a photo, its hole, its points; asks the server for completions and shows them.

import * as api from './api';
import type { Box, Face, Info, Point } from './api';
import { History } from './history';
import { fromPicture, Hole, outline, scratches } from './hole';
import type { Mark } from './hole';
import { boxOf, moved, PointLayer } from './points';
import type { Reach } from './points';
import { View } from './view';
import type { Gesture, Layer } from './view';

type Tool = 'paint' | 'erase' | 'points' | 'hand' | 'box';

interface Edit {
  marks: readonly Mark[];
  points: Point[] | null;
  moved: boolean; // by hand: they lead the completions, and are not looked for again
}

interface Run {
  id: string;
  title: string;
  seed: number;
  varied: boolean; // around a kept one: not to be told by its seed and number alone
  live: boolean; // drawn because a point moved: the next such takes its place
  window: Box;
  landmarks: Point[][];
  pictures: ImageBitmap[];
  differ: ImageBitmap;
}

const byId = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T;
const input = (id: string) => byId<HTMLInputElement>(id);
const value = (id: string) => Number(input(id).value);
const button = (id: string, act: () => void) => byId(id).addEventListener('click', act);

const bench = byId('bench');
const view = new View(byId('stage'), byId<HTMLCanvasElement>('picture'));
const edit = new History<Edit>({ marks: [], points: null, moved: false });
let info: Info;
let layer: PointLayer;
let tool: Tool = 'paint';
let file: Blob | null = null;
let fileName = '';
let photo: ImageBitmap | null = null;
let hole = new Hole(1, 1);
let faces: Face[] = [];
let face = 0;
let picked: Box | null = null; // the face that a person chose
let runs: Run[] = [];
let shown: { run: Run; k: number } | null = null; // the completion on the stage
let comparing = false;
let around: { run: Run; k: number } | null = null;
let search: AbortController | null = null;
let searchSoon = 0;
let work: AbortController | null = null;
let drawSoon = 0;
let brushAt: Point = [0, 0]; // of the keyboard, photo pixels

// ------------------------------------------------------------------------------- messages

function say(text: string, bad = false): void {
  const message = byId('message');
  message.textContent = text;
  message.classList.toggle('bad', bad);
}

// What goes on by itself does not hide an error that a person has yet to read.
function mention(text: string): void {
  if (!byId('message').classList.contains('bad')) say(text);
}

function fail(error: unknown): void {
  if ((error as Error).name !== 'AbortError') say((error as Error).message, true);
}

// ---------------------------------------------------------------------------------- photo

async function open(picture: Blob, name: string): Promise<void> {
  if (picture.size > info.limits.bytes) {
    return say(`${name}: larger than the ${Math.round(info.limits.bytes / 2 ** 20)} MB that the server reads.`, true);
  }
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(picture); // upright, as the file's orientation says
  } catch {
    return say(`${name}: not a picture that this browser shows; save it as JPEG, PNG or WebP.`, true);
  }
  if (bitmap.width * bitmap.height > info.limits.pixels) {
    return say(`${name}: ${bitmap.width}×${bitmap.height} pixels; the server reads ${info.limits.pixels / 1e6} million.`, true);
  }
  clearTimeout(drawSoon); // of a point of the photo before
  work?.abort();
  search?.abort();
  runs.forEach((run) => api.forget(run.id));
  photo?.close();
  [file, fileName, photo] = [picture, name, bitmap];
  hole = new Hole(bitmap.width, bitmap.height);
  [faces, face, picked, runs, shown, around] = [[], 0, null, [], null, null];
  edit.reset({ marks: [], points: null, moved: false });
  brushAt = [bitmap.width / 2, bitmap.height / 2];
  bench.classList.remove('empty');
  byId('name').textContent = `${name}, ${bitmap.width}×${bitmap.height}`;
  view.setPhoto(bitmap.width, bitmap.height);
  say('');
  show();
  await findFaces(true);
}

// Looks for the faces, by what the hole leaves of them. The server's order is kept but for the
// choice of a person; points that a person moved stay.
async function findFaces(first = false, box: Box | null = null): Promise<void> {
  clearTimeout(searchSoon);
  search?.abort();
  const mine = (search = new AbortController());
  mention('Looking for the face…');
  try {
    const { png, share } = await hole.exported();
    const found = await api.faces({ photo: file, hole: share ? png : null, box }, mine.signal);
    if (mine.signal.aborted) return;
    faces = found;
    face = picked && !box ? nearest(found, picked) : 0;
    if (box) picked = box;
    if (!edit.now.moved) edit.replace({ ...edit.now, points: found[face]?.landmarks ?? null });
    if (!found.length) {
      say('No face found. Press “Mark the face” and draw a box around it, from brow to chin.', true);
    } else {
      const [left, top, right, bottom] = found[face].box;
      if (first && Math.max(right - left, bottom - top) * view.zoom < 200) zoomToFace();
      mention(share ? '' : 'Paint over what shall be drawn anew, or press Eyes, Nose, Mouth or Scratch.');
    }
    show();
  } catch (error) {
    fail(error);
  }
}

function nearest(found: Face[], [left, top, right, bottom]: Box): number {
  const away = ({ box }: Face) =>
    Math.hypot(box[0] + box[2] - left - right, box[1] + box[3] - top - bottom);
  return found.reduce((best, one, i) => (away(one) < away(found[best]) ? i : best), 0);
}

function zoomToFace(): void {
  const points = edit.now.points;
  if (points) view.fit(boxOf(points), 0.4);
}

// ------------------------------------------------------------------------------- the edit

function change(next: Partial<Edit>): void {
  const holeChanged = next.marks !== undefined;
  say('');
  edit.push({ ...edit.now, ...next });
  changed(holeChanged);
}

// Points that move while completions follow them stay over the completion.
const live = () => tool === 'points' && input('live').checked;

function changed(holeChanged: boolean): void {
  if (holeChanged || !live()) shown = null;
  if (holeChanged) {
    hole.redraw(edit.now.marks);
    clearTimeout(searchSoon);
    // The points under the hole are guessed anew, once the hand rests.
    if (!edit.now.moved) searchSoon = window.setTimeout(() => void findFaces(), 700);
  }
  show();
}

// Draws anew with the points as they lie, once the hand rests.
function follow(): void {
  clearTimeout(drawSoon);
  if (!live()) return;
  drawSoon = window.setTimeout(() => {
    work?.abort();
    work = null;
    void complete(true);
  }, 250);
}

function step(go: boolean, before = edit.now): void {
  if (!go) return;
  changed(before.marks !== edit.now.marks);
  if (edit.now.moved) follow();
}

function stroke(start: Point): Gesture {
  shown = null;
  const erase = tool === 'erase';
  const mark: Mark = { kind: 'stroke', erase, radius: value('brush') / 2 / view.zoom, path: [start] };
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
    },
  };
}

function dragPoint(start: Point, reachPixels: number): Gesture | null {
  const points = edit.now.points;
  if (!points) return null;
  const away = points.map((p) => Math.hypot(p[0] - start[0], p[1] - start[1]));
  const index = away.indexOf(Math.min(...away));
  if (away[index] * view.zoom > reachPixels) return null;
  const before = edit.now;
  layer.focus(index);
  let latest = points;
  return {
    move(to) {
      latest = move(points, index, [to[0] - start[0], to[1] - start[1]]);
      edit.replace({ ...before, points: latest });
      showPoints();
    },
    end(done) {
      edit.replace(before);
      if (!done || latest === points) return showPoints();
      change({ points: latest, moved: true });
      follow();
    },
  };
}

function move(points: Point[], index: number, by: Point): Point[] {
  const reach = byId<HTMLSelectElement>('reach').value as Reach;
  const [w, h] = [photo!.width, photo!.height];
  const clamp = (x: number, size: number) => Math.min(Math.max(x, -0.5 * size), 1.5 * size);
  return moved(points, index, by, reach, info.regions).map(([x, y]) => [clamp(x, w), clamp(y, h)]);
}

function pointKey(index: number, event: KeyboardEvent): void {
  const steps: Record<string, Point> = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  const by = steps[event.key];
  const points = edit.now.points;
  if (by && points) {
    // A two-hundredth of the face, so that a step is seen on any photo.
    const [left, , right] = boxOf(points);
    const far = ((right - left) / 200) * (event.shiftKey ? 10 : 1);
    change({ points: move(points, index, [by[0] * far, by[1] * far]), moved: true });
    say(layer.describe(index, edit.now.points!));
    follow();
  } else if (event.key === ',' || event.key === '.') {
    layer.focus(index + (event.key === ',' ? -1 : 1));
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
}

function markBox(start: Point): Gesture {
  let end = start;
  const box = (): Box => [
    Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1]),
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
      setTool('points');
      edit.replace({ ...edit.now, moved: false });
      void findFaces(false, [left, top, right, bottom]);
    },
  };
}

function addToHole(what: string): void {
  const { points, marks } = edit.now;
  if (!points) return say('Wait for the points, or paint the hole by hand.', true);
  const box = boxOf(points);
  const size = Math.max(box[2] - box[0], box[3] - box[1]);
  const part = (grow: number, ...names: string[]): Mark => ({
    kind: 'shape',
    grow: grow * size,
    path: outline(names.flatMap((name) => info.regions[name].map((i) => points[i]))),
  });
  const made: Record<string, () => Mark[]> = {
    eyes: () => [part(0.05, 'right_brow', 'right_eye'), part(0.05, 'left_brow', 'left_eye')],
    nose: () => [part(0.05, 'nose')],
    // Its corners are found least surely; what is left of a smile would be continued.
    mouth: () => [part(0.09, 'mouth')],
    scratch: () => scratches(box),
  };
  change({ marks: [...marks, ...made[what]()] });
}

// ---------------------------------------------------------------------------- completions

async function complete(follows = false): Promise<void> {
  if (!file || !photo || work) return;
  const { png, share } = await hole.exported();
  if (!share) return say('There is no hole yet: paint over what shall be drawn anew.', true);
  const mine = (work = new AbortController());
  const kept = around;
  const settings = {
    photo: file,
    hole: png,
    num_samples: value('count'),
    seed: kept ? kept.run.seed : value('seed'),
    structure: value('structure'),
    appearance: value('appearance'),
    guidance: value('guidance'),
    keep: kept && kept.k,
    landmarks: edit.now.moved ? edit.now.points : null,
    // With it the network looks where the face was found, however far its points went.
    face: edit.now.moved || picked ? faces[face]?.landmarks ?? null : null,
  };
  showRun();
  say('');
  try {
    const status = await api.complete(settings, mine.signal, (now) => {
      const bar = byId<HTMLProgressElement>('progress');
      const waits = now.state === 'queued';
      if (waits || !now.done) bar.removeAttribute('value');
      else [bar.max, bar.value] = [now.total, now.done];
      byId('progress_text').textContent = waits
        ? `Waiting; ${now.ahead} before you`
        : now.done
          ? `Drawn ${now.done} of ${now.total}`
          : 'Drawing… the first time takes longer';
    });
    const numbers = Array.from({ length: settings.num_samples }, (_, k) => k);
    const [differ, ...pictures] = await Promise.all(
      ['uncertainty', ...numbers.map((k) => `previews/${k}`)].map(async (what) =>
        createImageBitmap(await api.picture(status.id, what)),
      ),
    );
    if (mine.signal.aborted) return;
    const title = kept
      ? `Around result ${kept.k + 1} of “${kept.run.title}”`
      : `${edit.now.moved ? 'Your points, s' : 'S'}eed ${status.seed}`;
    const run = { id: status.id, title, seed: status.seed, varied: kept !== null, live: follows, window: status.window, landmarks: status.landmarks, pictures, differ };
    const k = follows && shown ? Math.min(shown.k, pictures.length - 1) : 0;
    if (follows && runs[0]?.live) {
      api.forget(runs[0].id);
      runs.shift();
      byId('gallery').firstElementChild!.remove();
    }
    runs = [run, ...runs].slice(0, 6);
    addRun(run);
    choose({ run, k });
    say(status.notes.map((note) => note[0].toUpperCase() + note.slice(1) + '.').join(' '));
    if (!follows) byId('results').scrollIntoView({ block: 'nearest', behavior: 'smooth' });
  } catch (error) {
    if (!mine.signal.aborted) fail(error);
    else if (work === mine) say('Cancelled.');
  } finally {
    if (work === mine) work = null;
    showRun();
  }
}

function addRun(run: Run): void {
  const box = document.createElement('div');
  box.className = 'run';
  const title = box.appendChild(document.createElement('p'));
  title.textContent = run.title;
  const row = box.appendChild(document.createElement('div'));
  run.pictures.forEach((picture, k) => {
    const thumb = row.appendChild(document.createElement('button'));
    thumb.type = 'button';
    thumb.className = 'thumb';
    thumb.dataset.result = `${run.id}/${k}`;
    thumb.setAttribute('aria-label', `Result ${k + 1} of ${run.pictures.length}, ${run.title}`);
    const canvas = thumb.appendChild(document.createElement('canvas'));
    canvas.width = canvas.height = 240;
    // The middle square.
    const side = Math.min(picture.width, picture.height);
    const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2];
    canvas.getContext('2d')!.drawImage(picture, left, top, side, side, 0, 0, 240, 240);
    thumb.appendChild(document.createElement('span')).textContent = String(k + 1);
    thumb.addEventListener('click', () => choose({ run, k }));
  });
  const gallery = byId('gallery');
  gallery.prepend(box);
  while (gallery.children.length > runs.length) gallery.lastElementChild!.remove();
}

function choose(next: typeof shown): void {
  shown = next;
  show();
}

async function download(format: 'png' | 'jpeg'): Promise<void> {
  if (!shown) return;
  const { run, k } = shown;
  say('Fetching the picture…');
  try {
    const picture = await api.picture(run.id, `images/${k}?format=${format}`);
    const stem = fileName.replace(/\.[^.]*$/, '') || 'photo';
    save(picture, `${stem}_completed_${k + 1}.${format === 'png' ? 'png' : 'jpg'}`);
    say(format === 'png' ? 'Saved. Outside the hole, every pixel is the photo’s own.' : 'Saved.');
  } catch (error) {
    fail(error);
  }
}

function save(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// -------------------------------------------------------------------------------- showing

view.layers = () => {
  if (!photo) return [];
  const whole: Box = [0, 0, photo.width, photo.height];
  const layers: Layer[] = [{ image: photo, box: whole, opacity: 1 }];
  if (comparing) return layers;
  if (!shown) return [...layers, { image: hole.canvas, box: whole, opacity: 0.6 }];
  const { run, k } = shown;
  layers.push({ image: run.pictures[k], box: run.window, opacity: 1 });
  if (input('differ').checked) layers.push({ image: run.differ, box: run.window, opacity: 1 });
  return layers;
};

function show(): void {
  view.redraw();
  showPoints();
  showMarks();
  const ready = photo !== null;
  for (const one of document.querySelectorAll<HTMLButtonElement>('#tools button, #panel button, #panel select')) {
    one.disabled = !ready;
  }
  byId<HTMLButtonElement>('undo').disabled = !edit.canUndo;
  byId<HTMLButtonElement>('redo').disabled = !edit.canRedo;
  byId<HTMLButtonElement>('zoom_face').disabled = !edit.now.points;
  byId<HTMLButtonElement>('reset_points').disabled = !ready;
  byId('results').hidden = runs.length === 0;
  bench.classList.toggle('finished', runs.length > 0);
  for (const one of document.querySelectorAll<HTMLButtonElement>('#chosen button')) one.disabled = !shown;
  byId<HTMLButtonElement>('vary').disabled = shown?.run.varied ?? true;
  byId<HTMLButtonElement>('compare').disabled = !shown;
  if (!runs.length) byId('gallery').replaceChildren();
  for (const thumb of document.querySelectorAll<HTMLElement>('.thumb')) {
    const mine = shown !== null && thumb.dataset.result === `${shown.run.id}/${shown.k}`;
    thumb.setAttribute('aria-pressed', String(mine));
  }
  const seen = byId('seen');
  seen.hidden = !shown;
  const glow = input('differ').checked ? '; the brighter, the more they differ' : '';
  if (shown) seen.textContent = comparing ? 'The photo' : `Result ${shown.k + 1}${glow}`;
  showFaces();
  showSliders();
  showRun();
}

function showPoints(): void {
  if (!layer) return;
  const points = edit.now.points;
  const visible = photo && points && (live() || (!shown && (tool === 'points' || input('show_points').checked)));
  layer.show(visible ? points.map((p) => view.toStage(p)) : null, points, tool === 'points');
}

// The brush under the pointer, a box being drawn, the boxes of several faces.
function showMarks(box: Box | null = null, at: Point | null = null): void {
  const marks = byId<SVGSVGElement>('marks');
  const shapes: [string, Record<string, number>, string][] = [];
  const rectangle = (one: Box) => {
    const [left, top] = view.toStage([one[0], one[1]]);
    const [right, bottom] = view.toStage([one[2], one[3]]);
    shapes.push(['rect', { x: left, y: top, width: right - left, height: bottom - top }, 'face']);
  };
  if (box) rectangle(box);
  else if (photo && faces.length > 1 && !shown) faces.forEach((one, i) => i === face && rectangle(one.box));
  if (at) shapes.push(['circle', { cx: at[0], cy: at[1], r: value('brush') / 2 }, 'brush']);
  marks.replaceChildren(
    ...shapes.map(([name, numbers, kind]) => {
      const shape = document.createElementNS('http://www.w3.org/2000/svg', name);
      shape.setAttribute('class', kind);
      for (const [key, number] of Object.entries(numbers)) shape.setAttribute(key, number.toFixed(1));
      return shape;
    }),
  );
}

function showFaces(): void {
  const row = byId('faces');
  row.hidden = faces.length < 2;
  row.replaceChildren(
    ...(faces.length < 2 ? [] : faces).map((one, i) => {
      const choice = document.createElement('button');
      choice.type = 'button';
      choice.setAttribute('role', 'radio');
      choice.setAttribute('aria-checked', String(i === face));
      choice.textContent = `Face ${i + 1}`;
      choice.addEventListener('click', () => {
        [face, picked] = [i, one.box];
        edit.push({ ...edit.now, points: one.landmarks, moved: false });
        changed(false);
        zoomToFace();
        byId('faces').querySelectorAll('button')[i].focus();
      });
      return choice;
    }),
  );
}

function showSliders(): void {
  for (const name of ['brush', 'count', 'structure', 'appearance', 'guidance']) {
    const share = name === 'structure' || name === 'appearance';
    byId(`${name}_out`).textContent = share ? `${Math.round(100 * value(name))} %` : input(name).value;
  }
  // Points of a person lead all completions alike.
  input('structure').disabled = edit.now.moved;
  input('structure').closest('label')!.classList.toggle('off', edit.now.moved);
  if (edit.now.moved) byId('structure_out').textContent = 'your points';
  byId('around').hidden = around === null;
  if (around) byId('around').firstElementChild!.textContent = `Around result ${around.k + 1} of “${around.run.title}”`;
}

function showRun(): void {
  byId('busy').hidden = work === null;
  byId('complete').hidden = work !== null;
  byId<HTMLButtonElement>('complete').disabled = !photo;
}

function setTool(next: Tool): void {
  tool = next;
  bench.dataset.tool = next;
  if (next !== 'hand' && !live()) shown = null;
  for (const one of document.querySelectorAll<HTMLElement>('[role=radio][data-tool]')) {
    one.setAttribute('aria-checked', String(one.dataset.tool === next));
    one.tabIndex = one.dataset.tool === next ? 0 : -1;
  }
  show();
}

// --------------------------------------------------------------------------------- wiring

view.begin = (at, event) => {
  if (!photo) return null;
  if (tool === 'paint' || tool === 'erase') return stroke(at);
  if (tool === 'box') return markBox(at);
  return tool === 'points' ? dragPoint(at, event.pointerType === 'mouse' ? 16 : 28) : null;
};
view.onChange = () => {
  showPoints();
  showMarks();
};
view.onHover = (at) => {
  if (tool === 'paint' || tool === 'erase') showMarks(null, photo ? at : null);
};

function keyboardBrush(event: KeyboardEvent): void {
  if (!photo || (tool !== 'paint' && tool !== 'erase')) return;
  const steps: Record<string, Point> = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  const by = steps[event.key];
  if (by) {
    const far = ((event.shiftKey ? 1 : 0.25) * value('brush')) / view.zoom;
    brushAt = [
      Math.min(Math.max(brushAt[0] + by[0] * far, 0), photo.width),
      Math.min(Math.max(brushAt[1] + by[1] * far, 0), photo.height),
    ];
  } else if (event.key === ' ') {
    stroke(brushAt).end(true);
  } else {
    return;
  }
  showMarks(null, view.toStage(brushAt));
  event.preventDefault();
}

function shortcut(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const typing = target.matches('input[type=number], select, textarea');
  if (!photo || typing || event.altKey) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    const before = edit.now;
    if (key === 'z') step(event.shiftKey ? edit.redo() : edit.undo(), before);
    else if (key === 'y') step(edit.redo(), before);
    else return;
    event.preventDefault();
    return;
  }
  const acts: Record<string, () => void> = {
    p: () => setTool('paint'), e: () => setTool('erase'), m: () => setTool('points'), h: () => setTool('hand'),
    f: zoomToFace, 0: () => view.fit(), '+': () => view.zoomBy(1.4), '=': () => view.zoomBy(1.4),
    '-': () => view.zoomBy(1 / 1.4), c: () => compare(true), escape: () => work?.abort(),
  };
  acts[key]?.();
}

function compare(on: boolean): void {
  if (!shown || comparing === on) return;
  comparing = on;
  show();
}

function openFiles(files: FileList | null | undefined): void {
  const picture = files?.[0];
  if (picture) void open(picture, picture.name || 'photo').catch(fail);
}

function wire(): void {
  const tools = [...document.querySelectorAll<HTMLElement>('[role=radio][data-tool]')];
  tools.forEach((one, i) => {
    one.addEventListener('click', () => setTool(one.dataset.tool as Tool));
    one.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const next = tools[(i + by + tools.length) % tools.length];
      setTool(next.dataset.tool as Tool);
      next.focus();
    });
  });
  button('undo', () => {
    const before = edit.now;
    step(edit.undo(), before);
  });
  button('redo', () => {
    const before = edit.now;
    step(edit.redo(), before);
  });
  button('zoom_in', () => view.zoomBy(1.4));
  button('zoom_out', () => view.zoomBy(1 / 1.4));
  button('zoom_face', zoomToFace);
  button('zoom_all', () => view.fit());
  button('box', () => {
    setTool('box');
    say('Draw a box around the face, from brow to chin and from ear to ear.');
  });
  button('clear', () => change({ marks: [] }));
  button('reset_points', () => {
    edit.push({ ...edit.now, moved: false });
    void findFaces();
  });
  button('save_hole', async () => save((await hole.exported()).png, `${fileName.replace(/\.[^.]*$/, '')}_mask.png`));
  button('cancel', () => work?.abort());
  button('save_png', () => void download('png'));
  button('save_jpeg', () => void download('jpeg'));
  button('dice', () => {
    input('seed').value = String(Math.floor(Math.random() * 1_000_000));
  });
  button('vary', () => {
    if (!shown) return;
    around = shown;
    for (const name of ['structure', 'appearance']) if (value(name) === 1) input(name).value = '0.4';
    input('seed').value = String(shown.run.seed);
    show();
    byId('complete').focus();
    say('The next results stay near this one; the sliders say how near.');
  });
  byId('around').querySelector('button')!.addEventListener('click', () => {
    around = null;
    show();
  });
  button('take_points', () => {
    if (!shown) return;
    const points = shown.run.landmarks[shown.k];
    setTool('points');
    change({ points, moved: true });
  });
  for (const one of document.querySelectorAll<HTMLElement>('[data-hole]')) {
    one.addEventListener('click', () => addToHole(one.dataset.hole!));
  }
  for (const name of ['brush', 'count', 'structure', 'appearance', 'guidance']) {
    input(name).addEventListener('input', showSliders);
  }
  input('brush').addEventListener('input', () => {
    showMarks(null, view.toStage(view.centre)); // how large it is, before it is used
  });
  input('brush').addEventListener('change', () => showMarks());
  input('show_points').addEventListener('change', showPoints);
  input('live').addEventListener('change', () => {
    if (input('live').checked) setTool('points');
    else show();
  });
  input('differ').addEventListener('change', show);
  const hold = byId('compare');
  hold.addEventListener('pointerdown', () => compare(true));
  for (const name of ['pointerup', 'pointerleave', 'pointercancel', 'blur']) {
    hold.addEventListener(name, () => compare(false));
  }
  hold.addEventListener('contextmenu', (event) => event.preventDefault()); // of a long touch
  hold.addEventListener('keydown', (event) => {
    if (event.key === ' ' || event.key === 'Enter') compare(true);
  });
  document.addEventListener('keyup', () => compare(false));
  input('photo').addEventListener('change', (event) => {
    const chooser = event.target as HTMLInputElement;
    openFiles(chooser.files);
    chooser.value = ''; // the same file may be chosen again
  });
  input('hole_file').addEventListener('change', async (event) => {
    const chooser = event.target as HTMLInputElement;
    try {
      const picture = chooser.files?.[0];
      if (!picture || !photo) return;
      const mark = fromPicture(await createImageBitmap(picture), photo.width, photo.height);
      change({ marks: [...edit.now.marks, mark] });
    } catch (error) {
      fail(error);
    } finally {
      chooser.value = '';
    }
  });
  byId('panel').addEventListener('submit', (event) => {
    event.preventDefault();
    void complete();
  });
  byId('picture').addEventListener('keydown', keyboardBrush);
  document.addEventListener('keydown', shortcut);
  document.addEventListener('paste', (event) => openFiles(event.clipboardData?.files));
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    bench.classList.add('dragging');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) bench.classList.remove('dragging');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    bench.classList.remove('dragging');
    openFiles(event.dataTransfer?.files);
  });
  window.addEventListener('pagehide', () => {
    work?.abort();
    runs.forEach((run) => api.forget(run.id));
  });
}

async function start(): Promise<void> {
  wire();
  setTool('paint');
  info = await api.info();
  layer = new PointLayer(byId<SVGSVGElement>('overlay'), info.regions, pointKey);
  input('count').max = String(info.limits.samples);
  input('guidance').value = String(info.guidance);
  show();
}

start().catch(fail);
