import { TsiError } from './error.js';

/** What the agent says of its guest: `GET /facts` on the agent link. Times are uptimes of the guest. */
export type AgentFacts = {
  readonly agentVersion: string;
  /** What `#TSI_PING` answers. */
  readonly tsiVersion: string;
  readonly kernel: string;
  /** `PRETTY_NAME` of os-release */
  readonly os: string;
  /** Whether its batch system makes reservations; absent: an older agent. */
  readonly reservations?: boolean;
  /** Whether its machine can be made another one, and that of a copy of its memory too; absent: an older agent. */
  readonly identity?: boolean;
  readonly copies?: boolean;
  /** The kernel's own name of this boot; absent: an older agent. */
  readonly bootId?: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** at the answer; a container has the host's */
  readonly uptimeMs: number;
  /** when the first process of user space started, as the image's init says */
  readonly userSpaceMs?: number;
  /** when the agent's program started */
  readonly agentMs: number;
  /** The file systems that jobs write to; absent: an older agent. */
  readonly fileSystems?: readonly FileSystemFacts[];
};

export type FileSystemFacts = {
  readonly path: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
};

const mostFileSystems = 8;

const texts = ['agentVersion', 'tsiVersion', 'kernel', 'os'] as const;
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const flags = ['reservations', 'identity', 'copies'] as const;
const numbers = ['cores', 'memoryBytes', 'uptimeMs', 'agentMs', 'userSpaceMs'] as const;

/** @throws {@link TsiError} `TSI_PROTOCOL` naming the field */
export function decodeFacts(json: string): AgentFacts {
  const raw = parse(json);
  const facts: Record<string, unknown> = {};
  for (const name of texts) {
    const value = raw[name];
    facts[name] = typeof value === 'string' && value.length <= 256 ? value : refuse(name);
  }
  for (const name of numbers) {
    const value = raw[name];
    if (value === undefined && name === 'userSpaceMs') continue;
    facts[name] = Number.isFinite(value) && Number(value) >= 0 ? value : refuse(name);
  }
  for (const name of flags) if (typeof raw[name] === 'boolean') facts[name] = raw[name];
  const { bootId } = raw;
  if (typeof bootId === 'string' && uuid.test(bootId)) facts['bootId'] = bootId;
  if (raw['fileSystems'] !== undefined) facts['fileSystems'] = readFileSystems(raw['fileSystems']);
  return facts as AgentFacts; // each field was checked above
}

function readFileSystems(raw: unknown): FileSystemFacts[] {
  if (!Array.isArray(raw) || raw.length > mostFileSystems) return refuse('fileSystems');
  return raw.map((each: unknown) => {
    const { path, totalBytes, freeBytes } = { ...(each as object) } as Record<string, unknown>;
    return typeof path === 'string' &&
      path.length <= 256 &&
      isAmount(totalBytes) &&
      isAmount(freeBytes)
      ? { path, totalBytes, freeBytes }
      : refuse('fileSystems');
  });
}

function isAmount(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

function parse(json: string): Record<string, unknown> {
  try {
    return { ...(JSON.parse(json) as object) };
  } catch {
    return refuse('json');
  }
}

function refuse(name: string): never {
  throw new TsiError('TSI_PROTOCOL', 'the facts of the agent cannot be read', { field: name });
}
