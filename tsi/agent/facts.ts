import { readFileSync, statfsSync, statSync } from 'node:fs';
import { availableParallelism, release, totalmem } from 'node:os';
import type { AgentFacts, FileSystemFacts } from '../protocol/facts.js';
import { identityFacts } from './machine-identity.js';
import type { Settings } from './settings.js';

/** Replaced by the bundler (`--define`); a run from the sources says so. */
declare const AGENT_VERSION: string | undefined;
export const agentVersion = typeof AGENT_VERSION === 'string' ? AGENT_VERSION : 'source';

/** Where the image's init notes its own start, as JSON: `{"userSpaceMs": <uptime in ms>}`. */
const bootFile = '/run/vsite/boot.json';

const agentMs = Math.max(0, uptimeMs() - Math.round(performance.now()));

export function collectFacts(settings: Settings): AgentFacts {
  const userSpaceMs = readBootFile();
  return {
    agentVersion,
    tsiVersion: settings.version,
    kernel: release(),
    os: /^PRETTY_NAME="?(.*?)"?$/m.exec(readText('/etc/os-release'))?.[1] ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    uptimeMs: uptimeMs(),
    ...(userSpaceMs !== undefined && { userSpaceMs }),
    agentMs,
    bootId: readText('/proc/sys/kernel/random/boot_id').trim(),
    ...identityFacts(settings),
    fileSystems: fileSystems(),
  };
}

/** Where jobs and programs write, each file system once. One that has no size is memory without a bound. */
function fileSystems(): FileSystemFacts[] {
  const found = new Map<number, FileSystemFacts>();
  for (const path of ['/', '/home', '/tmp', '/var'])
    try {
      const { dev } = statSync(path);
      const { blocks, bavail, bsize } = statfsSync(path);
      if (blocks > 0 && !found.has(dev))
        found.set(dev, { path, totalBytes: blocks * bsize, freeBytes: bavail * bsize });
    } catch {
      // it has none of that name
    }
  return [...found.values()];
}

function readBootFile(): number | undefined {
  try {
    const { userSpaceMs } = JSON.parse(readText(bootFile)) as { userSpaceMs?: unknown };
    return typeof userSpaceMs === 'number' && userSpaceMs >= 0 ? userSpaceMs : undefined;
  } catch {
    return undefined; // an image without it
  }
}

function uptimeMs(): number {
  return Math.round(Number.parseFloat(readText('/proc/uptime')) * 1_000);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
