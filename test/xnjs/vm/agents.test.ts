import assert from 'node:assert/strict';
import { chownSync, mkdirSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { FrameScanner, frameTypes, preface } from '#xnjs/tsi/http2-frames.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import { Agents } from '#xnjs/vm/agents.js';
import type { SystemRecords } from '#xnjs/vm/system-records.js';
import type { TargetSystemsOptions } from '#xnjs/vm/target-systems-options.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import {
  alice,
  clientOf,
  dialUnix,
  isRoot,
  nobodyId,
  scratch,
  startAgent,
  until,
} from '../../tsi/agent-process.js';
import { aTargetSystem } from './samples.js';

const resetStream = 3;

/** Passes on to the agent. @returns the types of the frames that it was sent */
async function listenIn(scope: Scope, path: string, agent: string): Promise<number[]> {
  const types: number[] = [];
  const sockets: Socket[] = [];
  const server = createServer((client) => {
    const scanner = new FrameScanner(({ type }) => (types.push(type), 'drop'));
    let skip = preface.length;
    void dialUnix(agent).then((upstream) => {
      for (const socket of [client, upstream]) sockets.push(socket.on('error', () => undefined));
      client.on('data', (chunk: Buffer) => {
        Array.from(scanner.push(chunk.subarray(skip)));
        skip = Math.max(0, skip - chunk.length);
      });
      client.pipe(upstream).pipe(client);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer(() => {
    sockets.forEach((socket) => socket.destroy());
    server.close();
  });
  return types;
}

/** Nothing is kept of any machine: what an agent says when it answers is not asked for. */
const noRecords = { find: () => undefined } as unknown as SystemRecords;

function startAgents(scope: Scope, workspace: Workspace): Agents {
  const systems = { clock: systemClock, log: silentLog, heartbeatMs: 1_000, workspace };
  const stopping = new AbortController();
  scope.defer(() => stopping.abort());
  return scope.use(
    new Agents({
      systems: systems as unknown as TargetSystemsOptions, // what a channel on this host takes
      ...{ records: noRecords, log: silentLog, stopping: stopping.signal },
      onSilence: () => Promise.resolve(),
      onUp: () => Promise.resolve(),
      onUnbound: () => undefined,
      reapply: () => Promise.resolve(),
      fallBack: () => Promise.resolve(),
    }),
  );
}

async function runJob(tsi: TsiClient, dir: string, name: string): Promise<string> {
  const uspaceDir = join(dir, name);
  mkdirSync(uspaceDir);
  if (isRoot) chownSync(uspaceDir, nobodyId, nobodyId);
  const files = { uspaceDir, outcomeDir: uspaceDir, stdout: 'stdout', stderr: 'stderr' };
  return await tsi.submit(alice, { ...files, jobName: name, attemptId: name, script: 'true' });
}

describe('the agents of machines', { timeout: 60_000 }, () => {
  it('tell of the ends of jobs while somebody wants to know, as often as somebody does', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const tsi = await clientOf(scope, agent);
    const dir = scratch(scope, nobodyId);
    const record = aTargetSystem();
    const workspace = new Workspace(scratch(scope));
    const path = workspace.agentSocket(record);
    mkdirSync(dirname(path), { recursive: true });
    const types = await listenIn(scope, path, agent.socket);
    const sent = (type: number): number => types.filter((one) => one === type).length;

    const agents = startAgents(scope, workspace);
    agents.bind(record);
    await until('it answers', () => agents.answers(record.id));
    for (const round of [1, 2, 3]) {
      const told: string[] = [];
      const stops = ['one', 'two'].map((who) =>
        agents.onExit(record.id, (id) => told.push(`${who} ${id}`)),
      );
      await until('the agent is asked', () => sent(frameTypes.headers) === round);
      const id = await runJob(tsi, dir, `job${round}`);
      await until('both are told', () => told.length === 2);
      assert.deepEqual(told, [`one ${id}`, `two ${id}`]);
      stops[0]?.();
      assert.equal(sent(resetStream), round - 1);
      stops[1]?.();
      await until('the agent is not asked any more', () => sent(resetStream) === round);
    }
  });
});
