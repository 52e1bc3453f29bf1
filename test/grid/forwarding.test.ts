import assert from 'node:assert/strict';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import type { HttpClient } from '#kernel/http/client.js';
import { echoService } from './clients/curl-story.js';
import { eventually, factoryPath, Grid, noMachines, sitePath } from './grid.js';

/** Of the guest's. */
const port = 7_777;

describe(
  'a service that a job runs inside a virtual machine',
  { skip: noMachines, timeout: 300_000 },
  () => {
    let grid: Grid;
    let user: HttpClient;
    let job: string;
    const children: ChildProcessWithoutNullStreams[] = [];

    function vsite(...args: string[]): ChildProcessWithoutNullStreams {
      const child = grid.vsite(args);
      children.push(child);
      return child;
    }
    async function status(): Promise<string> {
      const { body } = await user.json('GET', `${sitePath}/jobs/${job}`);
      return (body as { status: string }).status;
    }

    before(async () => {
      grid = await Grid.start();
      user = await grid.user();
      await grid.publishDemo('vm');
      const made = await user.json('POST', factoryPath, { image: 'vsite-demo' });
      const site = String(made.headers['location']).split('/').at(-1)!;
      const { headers } = await user.json('POST', `${sitePath}/sites/${site}/jobs`, {
        Executable: echoService(port),
      });
      job = String(headers['location']).split('/').at(-1)!;
      await eventually('the job runs', async () => (await status()) === 'RUNNING', 120_000);
      await eventually('the service is there', async () => {
        const socket = await open().catch(() => undefined);
        socket?.destroy();
        return socket !== undefined;
      });
    });
    after(async () => {
      for (const child of children) child.kill('SIGKILL');
      await grid[Symbol.asyncDispose]();
    });

    const open = () =>
      user.upgrade(
        `${sitePath}/jobs/${job}/forward-port?port=${port}`,
        'UNICORE-Socket-Forwarding',
      );

    it('is reached through gateway, server, hypervisor and agent; each side may end first', async () => {
      const socket = await open();
      const sent = 'abcdefgh'.repeat(100_000);
      socket.end(sent);
      assert.equal(await text(socket), sent);
    });

    it('is reached by the command line, which hears of the end of the job', async () => {
      const events = vsite('events', '--types', 'job', '--json', '--since', '0');
      const lines = createInterface({ input: events.stdout })[Symbol.asyncIterator]();
      const first = JSON.parse((await lines.next()).value as string) as { event: string };
      assert.equal(first.event, 'reset');

      const forward = vsite('forward', job, `0:${port}`);
      const [told] = (await once(createInterface({ input: forward.stderr }), 'line')) as [string];
      const local = Number(/127\.0\.0\.1:(\d+)/.exec(told)![1]);
      const socket = connect({ host: '127.0.0.1', port: local, allowHalfOpen: true });
      socket.end('by command line');
      assert.equal(await text(socket), 'by command line');

      const held = connect({ host: '127.0.0.1', port: local }).resume();
      held.on('error', () => undefined).write('x');
      await once(held, 'data');
      await user.json('DELETE', `${sitePath}/jobs/${job}`);
      await once(held, 'close');
      const seen: string[] = [];
      while (!seen.includes('deleted')) {
        const { data } = JSON.parse((await lines.next()).value as string) as {
          data: { id: string; change: string };
        };
        assert.equal(data.id, job);
        seen.push(data.change);
      }
      assert.match(await grid.logText(), /"msg":"forwarded connection closed"/);
    });
  },
);
