import { spawn } from 'node:child_process';
import { pipeline, Readable } from 'node:stream';
import { createInterface } from 'node:readline';
import { growthFlag } from '#cli/serve.js';
import type { Scope } from '#kernel/scope.js';
import { nodeFlags, program } from '../../program.js';
import { startWeb, type WebServer } from './web-server.js';

const block = Buffer.alloc(1024 * 1024, 'The quick brown fox jumps over the lazy dog. ');

/** Serves `sizeBytes` (whole MiB) that are nowhere kept, and takes uploads that it only counts. */
export async function startLarge(
  scope: Scope,
  sizeBytes: number,
): Promise<WebServer & { readonly counted: () => number }> {
  let counted = 0;
  const server = await startWeb(scope, (request, response) => {
    if (request.method === 'PUT') {
      request.on('data', (chunk: Buffer) => (counted += chunk.length));
      request.on('end', () => response.writeHead(204).end());
      return;
    }
    response.writeHead(200, { 'content-length': sizeBytes });
    const blocks = function* (): Generator<Buffer, void, undefined> {
      for (let sent = 0; sent < sizeBytes; sent += block.length) yield block;
    };
    pipeline(Readable.from(blocks(), { objectMode: false }), response, () => undefined);
  });
  return { ...server, counted: () => counted };
}

export type Measured = {
  readonly jobId: string;
  readonly peakMiB: number;
  readonly seconds: number;
};

/** Stages in a process of its own. The time is that from when the job is known until it is staged. */
export async function measure(
  directory: string,
  socket: string,
  description: object,
  direction: 'in' | 'out' = 'in',
  jobId = '',
): Promise<Measured> {
  const script = program('test/xnjs/staging/stage-child.ts');
  const child = spawn(
    process.execPath,
    [
      // its heap grows as the server's does
      ...[growthFlag, ...nodeFlags, script],
      ...[directory, socket, JSON.stringify(description), direction, jobId],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let id = '';
  let started = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    const [word, value = ''] = line.split(' ');
    if (word === 'job') {
      id = value;
      started = performance.now();
    } else if (word === 'staged')
      return { jobId: id, peakMiB: Number(value), seconds: (performance.now() - started) / 1_000 };
  }
  throw new Error('the transfer failed');
}
