import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { ClientHttp2Session } from 'node:http2';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { Scope } from '#kernel/scope.js';
import * as commands from '#tsi/protocol/commands.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import {
  alice,
  clientOf,
  dialUnix,
  nobodyId,
  scratch,
  startAgent,
  type AgentProcess,
} from '../tsi/agent-process.js';
import { RawWorker, sessionTo } from '../tsi/raw-worker.js';

/** The agent under an XNJS that means harm: it lives, stays small, and serves another that does not. */
const maxRssMiB = 400;
const MiB = 1024 * 1024;

const scope = new Scope();
let agent: AgentProcess;
let good: TsiClient;
let dir: string;

before(async () => {
  const properties = ['tsi.my_port=0', 'tsi.unicorex_machine=127.0.0.1'];
  agent = await startAgent(scope, { properties });
  good = await clientOf(scope, agent);
  dir = scratch(scope, nobodyId);
});
after(() => scope.close());

function rssMiB(): number {
  const status = readFileSync(`/proc/${agent.child.pid ?? 0}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
}
async function isWell(): Promise<void> {
  assert.equal(await good.execute(alice, 'echo well'), 'well\n');
  assert.equal(agent.child.exitCode, null);
  const used = rssMiB();
  assert.ok(used < maxRssMiB, `the agent uses ${used} MiB`);
}
const session = (): Promise<ClientHttp2Session> => sessionTo(scope, agent.socket);

describe('the agent under a hostile XNJS', () => {
  it('survives connections that speak no HTTP/2, or stop in the middle of it', async () => {
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    for (let round = 0; round < 40; round += 1) {
      const socket = await dialUnix(agent.socket);
      socket.on('error', () => undefined);
      const speaks = round % 3 > 0;
      socket.write(Buffer.concat([speaks ? preface : Buffer.alloc(0), randomBytes(round * 50)]));
      if (round % 2 === 0) socket.destroy();
      else scope.defer(() => socket.destroy());
    }
    await isWell();
  });

  it('survives nonsense to its main', async () => {
    const port = await agent.port();
    for (const line of [
      ...[randomBytes(1_000), 'start-forwarding\n', 'start-forwarding 1 a b\n', '\0\n'],
      ...['newtsiprocess 1e9\n', 'start-forwarding 1 file:/etc/shadow root NONE\n'],
    ]) {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.end(line);
      socket.resume();
      await once(socket, 'close');
    }
    await isWell();
  });

  it('answers every message of known words in any order, or ends that worker', async () => {
    const names = Object.values(commands).flatMap((row) =>
      typeof row === 'object' && 'name' in row ? [`#${row.name}`] : [],
    );
    const line = fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(...names) },
      {
        weight: 6,
        arbitrary: fc.constantFrom(
          ...['#TSI_FILE /etc/passwd', `#TSI_FILE ${dir}/f 640`, '#TSI_LENGTH 5', '#TSI_START 0'],
          ...['#TSI_LENGTH 99999999999999', '#TSI_START 9e15', '#TSI_LS_MODE A', '#TSI_LS_MODE N'],
          ...[
            `#TSI_USPACE_DIR ${dir}`,
            `#TSI_OUTCOME_DIR ${dir}`,
            '#TSI_STDOUT o',
            '#TSI_STDERR e',
          ],
          ...['#TSI_BSSID 7', '#TSI_BSSID ../x', '#TSI_ACL_OPERATION GETFACL', '#TSI_ACL_PATH /'],
          ...['#TSI_IDENTITY nobody NONE', '#TSI_IDENTITY root root', '#TSI_SCRIPT', 'exit 3'],
        ),
      },
      { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 50 }) },
    );
    const message = fc.array(line, { maxLength: 10 });
    const by = await session();
    await fc.assert(
      fc.asyncProperty(message, async (lines) => {
        const worker = new RawWorker(by);
        worker.send(...lines, `#TSI_IDENTITY ${alice.login} NONE`, '');
        worker.data.end('12345');
        worker.command.end();
        // the worker ends when the channel does: all that it has to say comes before
        assert.match(await worker.reply(100 * MiB), /^(|TSI_(OK|FAILED)[^]*ENDOFMESSAGE\n)$/);
      }),
      { numRuns: 150 },
    );
    await isWell();
  });

  it('survives messages that are cut off anywhere', async () => {
    const whole = commands.putFileChunk.encode(
      { action: '0', file: { path: `${dir}/cut`, mode: 0o600 }, length: 1_000 },
      alice,
    );
    for (let at = 0; at < whole.length; at += 7) {
      const worker = new RawWorker(await session());
      worker.command.write(whole.slice(0, at));
      worker.data.write('x'.repeat(at));
      worker.command.session?.destroy();
    }
    await isWell();
  });

  it('gives up whoever holds most when many send lines without end', async () => {
    const by = await session();
    const line = Buffer.alloc(MiB, 'x');
    const workers = Array.from({ length: 24 }, () => new RawWorker(by));
    for (let round = 0; round < 12; round += 1) {
      await Promise.all(
        workers.map(
          ({ command }) =>
            new Promise<void>((resolve) => {
              if (command.destroyed) {
                resolve();
                return;
              }
              command.once('close', resolve);
              command.write(line, () => resolve());
            }),
        ),
      );
      await isWell();
    }
    assert.ok(workers.some(({ command }) => command.destroyed));
    by.destroy();
    await isWell();
  });

  it('bounds what waits for those that ask and never read', async () => {
    const by = await session();
    const ask = commands.getFileChunk.encode(
      { path: process.execPath, offset: 0, length: 4 * MiB },
      alice,
    );
    const workers = Array.from({ length: 24 }, () => new RawWorker(by));
    for (const { command } of workers) command.write(ask.repeat(50));
    for (const worker of workers.slice(0, 4)) await worker.reply(7);
    await isWell();
    by.destroy();
  });

  it('has an end to the number of workers, and serves again when they are gone', async () => {
    const by = await session();
    const workers = Array.from({ length: 200 }, () => new RawWorker(by));
    const last = workers.at(-1);
    assert.equal(await last?.reply(1), '');
    await isWell();
    by.destroy();
    const again = new RawWorker(await session());
    again.send('#TSI_PING', '');
    assert.equal(await again.reply(6), 'TSI_OK');
  });

  it('keeps halves of workers that never become whole for a time only, and serves beside them', async () => {
    const by = await session();
    for (let at = 0; at < 300; at += 1) {
      const path = `/worker/${randomUUID()}/data`;
      by.request({ ':method': 'POST', ':path': path }, { endStream: false }).on(
        'error',
        () => undefined,
      );
    }
    await isWell();
    by.destroy();
  });
});
