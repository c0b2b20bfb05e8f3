// The 68 points over the photo: drawn as SVG, moved by pointer or by arrow keys.

import type { Box, Point } from './api';

export type Reach = 'point' | 'near' | 'part' | 'face';

const SVG = 'http://www.w3.org/2000/svg';

// Lines that make the points a face: first point, last point, closed.
const CHAINS: [number, number, boolean][] = [
  [0, 16, false], [17, 21, false], [22, 26, false], [27, 30, false], [31, 35, false],
  [36, 41, true], [42, 47, true], [48, 59, true], [60, 67, true],
];

export function boxOf(points: Point[]): Box {
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

// The points after point `index` went by (dx, dy); `reach` says which others go along.
export function moved(
  points: Point[],
  index: number,
  [dx, dy]: Point,
  reach: Reach,
  regions: Record<string, number[]>,
): Point[] {
  const part = Object.values(regions).find((members) => members.includes(index)) ?? [];
  const [left, top, right, bottom] = boxOf(points);
  const near = 0.06 * Math.hypot(right - left, bottom - top);
  const share = (i: number): number => {
    if (i === index || reach === 'face') return 1;
    if (reach === 'part') return part.includes(i) ? 1 : 0;
    if (reach === 'point' || !part.includes(i)) return 0;
    const [x, y] = [points[i][0] - points[index][0], points[i][1] - points[index][1]];
    return Math.exp(-(x * x + y * y) / (2 * near * near));
  };
  return points.map(([x, y], i): Point => [x + share(i) * dx, y + share(i) * dy]);
}

export class PointLayer {
  private readonly lines: SVGPolylineElement[];
  private readonly dots: SVGCircleElement[];
  private readonly names: string[] = [];
  active = 30;

  // svg covers the stage, its units CSS pixels; onKey(index, event) moves a point by keyboard.
  constructor(
    private readonly svg: SVGSVGElement,
    regions: Record<string, number[]>,
    onKey: (index: number, event: KeyboardEvent) => void,
  ) {
    const group = document.createElementNS(SVG, 'g');
    group.setAttribute('role', 'group');
    group.setAttribute('aria-label', 'Face points');
    this.lines = CHAINS.map(() => {
      const line = document.createElementNS(SVG, 'polyline');
      line.setAttribute('class', 'line');
      return group.appendChild(line);
    });
    for (const [name, members] of Object.entries(regions)) {
      members.forEach((index, i) => (this.names[index] = `${name.replace('_', ' ')} ${i + 1}`));
    }
    this.dots = this.names.map((_, index) => {
      const dot = document.createElementNS(SVG, 'circle');
      dot.setAttribute('class', 'dot');
      dot.setAttribute('r', '3.5');
      dot.setAttribute('role', 'button');
      dot.setAttribute('aria-roledescription', 'movable point');
      dot.dataset.point = String(index);
      dot.addEventListener('keydown', (event) => onKey(index, event));
      dot.addEventListener('focus', () => this.activate(index));
      return group.appendChild(dot);
    });
    svg.append(group);
    this.activate(this.active);
  }

  // The one point that the Tab key reaches.
  activate(index: number): void {
    this.dots[this.active].classList.remove('active');
    this.dots[this.active].tabIndex = -1;
    this.active = (index + this.dots.length) % this.dots.length;
    this.dots[this.active].classList.add('active');
    this.dots[this.active].tabIndex = 0;
  }

  focus(index: number): void {
    this.activate(index);
    this.dots[this.active].focus({ preventScroll: true });
  }

  // Shows points given in CSS pixels of the stage, or hides them; photo: the same in photo pixels.
  show(points: Point[] | null, photo: Point[] | null, canMove: boolean): void {
    this.svg.toggleAttribute('hidden', points === null);
    this.svg.classList.toggle('movable', canMove);
    this.svg.setAttribute('aria-hidden', String(!canMove));
    if (!points || !photo) return;
    this.dots.forEach((dot, i) => {
      dot.setAttribute('cx', points[i][0].toFixed(1));
      dot.setAttribute('cy', points[i][1].toFixed(1));
      dot.setAttribute('aria-label', this.describe(i, photo));
    });
    CHAINS.forEach(([first, last, closed], i) => {
      const chain = points.slice(first, last + 1);
      if (closed) chain.push(points[first]);
      this.lines[i].setAttribute('points', chain.map((p) => p.map((v) => v.toFixed(1)).join()).join(' '));
    });
  }

  describe(index: number, photo: Point[]): string {
    return `${this.names[index]}: ${photo[index].map((v) => Math.round(v)).join(', ')}`;
  }
}
