// A value with its past and its future: undo and redo for hole and points alike.

export class History<T> {
  private past: T[] = [];
  private future: T[] = [];

  constructor(public now: T) {}

  push(next: T): void {
    this.past.push(this.now);
    this.now = next;
    this.future = [];
  }

  // Changes what is there without a step to go back to.
  replace(next: T): void {
    this.now = next;
  }

  reset(start: T): void {
    [this.past, this.future, this.now] = [[], [], start];
  }

  undo(): boolean {
    return this.step(this.past, this.future);
  }

  redo(): boolean {
    return this.step(this.future, this.past);
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  private step(from: T[], to: T[]): boolean {
    const next = from.pop();
    if (next === undefined) return false;
    to.push(this.now);
    this.now = next;
    return true;
  }
}
