// The hole: a list of strokes and shapes in photo pixels, drawn onto a canvas of its own.

import type { Point } from './api';

export type Mark =
  | { kind: 'stroke'; erase: boolean; radius: number; path: Point[] }
  | { kind: 'shape'; grow: number; path: Point[] } // a filled outline, grown by a disc
  | { kind: 'image'; image: HTMLCanvasElement }; // a hole from a file, opaque where missing

const COLOUR = '#ff2d78';
const LONGEST = 2048; // pixels of the canvas; the server enlarges the hole to the photo

export class Hole {
  readonly canvas = document.createElement('canvas');
  private readonly pen: CanvasRenderingContext2D;
  readonly scale: number; // canvas pixels to a photo pixel

  constructor(
    readonly width: number,
    readonly height: number,
  ) {
    this.scale = Math.min(1, LONGEST / Math.max(width, height));
    this.canvas.width = Math.max(1, Math.round(width * this.scale));
    this.canvas.height = Math.max(1, Math.round(height * this.scale));
    this.pen = this.canvas.getContext('2d', { willReadFrequently: true })!;
  }

  redraw(marks: readonly Mark[]): void {
    this.pen.setTransform(1, 0, 0, 1, 0, 0);
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const mark of marks) this.draw(mark);
  }

  // Draws a mark; of a stroke that goes on, what follows its point `from`.
  draw(mark: Mark, from = 0): void {
    const pen = this.pen;
    const [sx, sy] = [this.canvas.width / this.width, this.canvas.height / this.height];
    pen.setTransform(sx, 0, 0, sy, 0, 0);
    pen.globalCompositeOperation = 'source-over';
    pen.fillStyle = pen.strokeStyle = COLOUR;
    pen.lineCap = pen.lineJoin = 'round';
    if (mark.kind === 'image') {
      pen.drawImage(mark.image, 0, 0, this.width, this.height);
      return;
    }
    pen.beginPath();
    if (mark.kind === 'stroke') {
      pen.globalCompositeOperation = mark.erase ? 'destination-out' : 'source-over';
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
  async exported(): Promise<{ png: Blob; share: number }> {
    const { width, height } = this.canvas;
    const pixels = this.pen.getImageData(0, 0, width, height);
    const data = pixels.data;
    let missing = 0;
    for (let i = 0; i < data.length; i += 4) {
      const value = data[i + 3] > 127 ? 255 : 0;
      missing += value / 255;
      data[i] = data[i + 1] = data[i + 2] = value;
      data[i + 3] = 255;
    }
    const out = document.createElement('canvas');
    out.width = width;
    out.height = height;
    out.getContext('2d')!.putImageData(pixels, 0, 0);
    const png = await new Promise<Blob>((done, fail) =>
      out.toBlob((blob) => (blob ? done(blob) : fail(new Error('no memory for the hole'))), 'image/png'),
    );
    return { png, share: missing / (width * height) };
  }
}

// A hole from a picture: opaque where it is white. Its shape must be the photo's.
export function fromPicture(picture: ImageBitmap, width: number, height: number): Mark {
  if (Math.abs(picture.width * height - picture.height * width) > 0.02 * picture.width * height) {
    throw new Error(
      `The hole is ${picture.width}×${picture.height} and the photo ${width}×${height}: not the same shape.`,
    );
  }
  const image = document.createElement('canvas');
  image.width = picture.width;
  image.height = picture.height;
  const pen = image.getContext('2d', { willReadFrequently: true })!;
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, image.width, image.height);
  const data = pixels.data;
  const colour = [1, 3, 5].map((at) => parseInt(COLOUR.slice(at, at + 2), 16));
  for (let i = 0; i < data.length; i += 4) {
    const missing = Math.max(data[i], data[i + 1], data[i + 2]) > 127 && data[i + 3] > 127;
    [data[i], data[i + 1], data[i + 2]] = colour;
    data[i + 3] = missing ? 255 : 0;
  }
  pen.putImageData(pixels, 0, 0);
  return { kind: 'image', image };
}

// The outline of some points, anticlockwise (Andrew's monotone chain).
export function outline(points: Point[]): Point[] {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (list: Point[]): Point[] => {
    const chain: Point[] = [];
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

// A few thin curves across a face of this box, other ones at each call.
export function scratches([left, top, right, bottom]: number[]): Mark[] {
  const size = Math.max(right - left, bottom - top);
  const within = (low: number, high: number, share: number) => low + (high - low) * share;
  return Array.from({ length: 3 }, () => {
    const upright = Math.random() < 0.5;
    const ends = [0, 1].map((end): Point => {
      const along = end ? 1.1 : -0.1;
      const across = 0.15 + 0.7 * Math.random();
      return upright
        ? [within(left, right, across), within(top, bottom, along)]
        : [within(left, right, along), within(top, bottom, across)];
    });
    const bend = (Math.random() - 0.5) * 0.3 * size;
    const path = Array.from({ length: 25 }, (_, i): Point => {
      const t = i / 24;
      const off = bend * 4 * t * (1 - t);
      return [
        within(ends[0][0], ends[1][0], t) + (upright ? off : 0),
        within(ends[0][1], ends[1][1], t) + (upright ? 0 : off),
      ];
    });
    return { kind: 'stroke', erase: false, radius: Math.max(1, size * 0.012), path };
  });
}
