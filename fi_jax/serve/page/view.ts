// The stage: the photo under a movable, zoomable view, and what pointers do on it.

import type { Box, Point } from './api';

export interface Layer {
  image: CanvasImageSource;
  box: Box; // where it lies, photo pixels
  opacity: number;
}

// What a tool does with one pointer, in photo pixels. `end` is told whether the gesture counts.
export interface Gesture {
  move(at: Point): void;
  end(done: boolean): void;
}

const FINEST = 40; // CSS pixels to a photo pixel
const at = (event: PointerEvent | WheelEvent, box: DOMRect): Point => [
  event.clientX - box.left,
  event.clientY - box.top,
];

export class View {
  private readonly pen: CanvasRenderingContext2D;
  private readonly pointers = new Map<number, Point>();
  private gesture: Gesture | null = null;
  private scale = 1; // CSS pixels to a photo pixel
  private corner: Point = [0, 0]; // the photo's upper left, CSS pixels
  private size: Point = [1, 1]; // of the stage, CSS pixels
  private photo: Point = [1, 1];
  private pending = false;
  private whole = true; // nobody has zoomed: keep showing all of it
  layers: () => Layer[] = () => [];
  begin: (at: Point, event: PointerEvent) => Gesture | null = () => null;
  onChange: () => void = () => {};
  onHover: (at: Point | null) => void = () => {};

  constructor(
    private readonly stage: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
  ) {
    this.pen = canvas.getContext('2d')!;
    stage.addEventListener('pointerdown', (event) => this.down(event));
    stage.addEventListener('pointermove', (event) => this.moveTo(event));
    for (const name of ['pointerup', 'pointercancel'] as const) {
      stage.addEventListener(name, (event) => this.up(event, name === 'pointerup'));
    }
    stage.addEventListener('pointerleave', () => this.onHover(null));
    stage.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.resized()).observe(stage);
  }

  setPhoto(width: number, height: number): void {
    this.photo = [width, height];
    this.resized();
    this.fit();
  }

  toStage([x, y]: Point): Point {
    // Pixel centres are whole numbers; the photo's corner is at -0.5.
    return [this.corner[0] + (x + 0.5) * this.scale, this.corner[1] + (y + 0.5) * this.scale];
  }

  toPhoto([x, y]: Point): Point {
    return [(x - this.corner[0]) / this.scale - 0.5, (y - this.corner[1]) / this.scale - 0.5];
  }

  get zoom(): number {
    return this.scale;
  }

  get centre(): Point {
    return this.toPhoto([this.size[0] / 2, this.size[1] / 2]);
  }

  fit(box: Box = [-0.5, -0.5, this.photo[0] - 0.5, this.photo[1] - 0.5], margin = 0): void {
    const [left, top, right, bottom] = box;
    const space = 1 - margin;
    this.whole = margin === 0;
    this.scale = Math.min(
      FINEST,
      (space * this.size[0]) / Math.max(right - left, 1e-3),
      (space * this.size[1]) / Math.max(bottom - top, 1e-3),
    );
    this.corner = [
      this.size[0] / 2 - ((left + right) / 2 + 0.5) * this.scale,
      this.size[1] / 2 - ((top + bottom) / 2 + 0.5) * this.scale,
    ];
    this.settle();
  }

  // Zooms by a factor about a place of the stage, its middle where none is given.
  zoomBy(factor: number, about: Point = [this.size[0] / 2, this.size[1] / 2]): void {
    const smallest = Math.min(this.size[0] / this.photo[0], this.size[1] / this.photo[1]);
    const scale = Math.max(Math.min(smallest, 1), Math.min(FINEST, this.scale * factor));
    const ratio = scale / this.scale;
    this.corner = [0, 1].map((i) => about[i] - (about[i] - this.corner[i]) * ratio) as Point;
    this.scale = scale;
    this.whole = scale <= smallest;
    this.settle();
  }

  panBy([dx, dy]: Point): void {
    this.corner = [this.corner[0] + dx, this.corner[1] + dy];
    this.settle();
  }

  // Draws at the next frame, however often it is asked for.
  redraw(): void {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  // No part of the stage stays empty that the photo could fill.
  private settle(): void {
    this.corner = [0, 1].map((i) => {
      const room = this.size[i] - this.photo[i] * this.scale;
      return room >= 0 ? room / 2 : Math.max(room, Math.min(0, this.corner[i]));
    }) as Point;
    this.redraw();
    this.onChange();
  }

  private resized(): void {
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

  private draw(): void {
    const pen = this.pen;
    const density = this.canvas.width / this.size[0];
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.imageSmoothingEnabled = this.scale < 8; // far in, pixels are shown as pixels
    pen.imageSmoothingQuality = 'high';
    for (const { image, box, opacity } of this.layers()) {
      const [left, top] = this.toStage([box[0] - 0.5, box[1] - 0.5]);
      const [right, bottom] = this.toStage([box[2] - 0.5, box[3] - 0.5]);
      pen.globalAlpha = opacity;
      pen.drawImage(image, left, top, right - left, bottom - top);
    }
    pen.globalAlpha = 1;
  }

  private down(event: PointerEvent): void {
    if (event.button > 1) return;
    const place = at(event, this.stage.getBoundingClientRect());
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size > 1) {
      this.gesture?.end(false); // the first finger was not drawing: two fingers move the view
      this.gesture = null;
    } else {
      this.gesture = event.button === 1 ? null : this.begin(this.toPhoto(place), event);
    }
    event.preventDefault();
  }

  private moveTo(event: PointerEvent): void {
    const place = at(event, this.stage.getBoundingClientRect());
    this.onHover(place);
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.gesture) {
      // All places since the last frame, so that quick strokes stay round.
      const events = event.getCoalescedEvents?.() ?? [];
      const box = this.stage.getBoundingClientRect();
      for (const one of events.length ? events : [event]) this.gesture.move(this.toPhoto(at(one, box)));
    } else if (this.pointers.size === 1) {
      this.panBy([place[0] - before[0], place[1] - before[1]]);
    } else {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)![1];
      const distance = (p: Point) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      this.panBy([(place[0] - before[0]) / 2, (place[1] - before[1]) / 2]);
      this.zoomBy(distance(place) / Math.max(distance(before), 1), [
        (place[0] + other[0]) / 2,
        (place[1] + other[1]) / 2,
      ]);
    }
    this.pointers.set(event.pointerId, place);
  }

  private up(event: PointerEvent, done: boolean): void {
    if (!this.pointers.delete(event.pointerId)) return;
    this.gesture?.end(done);
    this.gesture = null;
  }

  private wheel(event: WheelEvent): void {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 300), at(event, this.stage.getBoundingClientRect()));
  }
}
