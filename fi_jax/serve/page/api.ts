// What the server answers, and how it is asked. Paths are relative: a prefix of a proxy is kept.

export type Point = [number, number];
export type Box = [number, number, number, number]; // left, top, right, bottom

export interface Info {
  network: { name?: string };
  res: number;
  limits: { bytes: number; pixels: number; samples: number };
  guidance: number;
  regions: Record<string, number[]>;
}

export interface Face {
  box: Box;
  landmarks: Point[];
}

export interface Status {
  id: string;
  state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled';
  ahead: number;
  done: number;
  total: number;
  error: string;
  notes: string[];
  seed: number;
  window: Box;
  landmarks: Point[][];
}

export type Settings = Record<string, string | number | Blob | object | null | undefined>;

async function ask(path: string, options: RequestInit = {}): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if ((error as Error).name === 'AbortError') throw error;
    throw new Error('The server does not answer. Is it still running?');
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let detail = text || answer.statusText;
  try {
    detail = String(JSON.parse(text).detail ?? detail);
  } catch {
    // not JSON: shown as it is
  }
  const wait = answer.headers.get('Retry-After');
  throw new Error(wait ? `The server is busy; try again in ${wait} s.` : detail);
}

function form(settings: Settings): FormData {
  const data = new FormData();
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined) continue;
    if (value instanceof Blob) data.append(name, value, `${name}.bin`);
    else data.append(name, typeof value === 'object' ? JSON.stringify(value) : String(value));
  }
  return data;
}

export async function info(): Promise<Info> {
  return (await ask('api/info')).json();
}

export async function faces(settings: Settings, signal: AbortSignal): Promise<Face[]> {
  const answer = await ask('api/faces', { method: 'POST', body: form(settings), signal });
  return (await answer.json()).faces;
}

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

// Completions, told of each step on the way; aborting the signal cancels them on the server too.
export async function complete(
  settings: Settings,
  signal: AbortSignal,
  onStatus: (status: Status) => void,
): Promise<Status> {
  const body = form(settings);
  const answer = await ask('api/completions', { method: 'POST', body, signal });
  let status: Status = await answer.json();
  const path = `api/completions/${status.id}`;
  const cancel = () => void fetch(path, { method: 'DELETE', keepalive: true });
  signal.addEventListener('abort', cancel);
  try {
    for (;;) {
      onStatus(status);
      if (status.state === 'done') return status;
      if (status.state === 'failed') throw new Error(status.error);
      await sleep(300);
      status = await (await ask(path, { signal })).json();
    }
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}

export async function picture(id: string, what: string): Promise<Blob> {
  return (await ask(`api/completions/${id}/${what}`)).blob();
}

export function forget(id: string): void {
  void fetch(`api/completions/${id}`, { method: 'DELETE', keepalive: true }).catch(() => undefined);
}
