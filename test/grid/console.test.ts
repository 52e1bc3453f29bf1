import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { PNG } from 'pngjs';
import { cpio } from '#cli/image/archive.js';
import { buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { createTargetSystem, publish, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import type { WebSocket } from '#kernel/http/client-websocket.js';
import { silentLog } from '#kernel/log.js';
import { eventually, Grid, noContainers, noMachines, refusal } from './grid.js';

const signal = AbortSignal.timeout(300_000);
/** First process of a machine with a shell at its serial port, which is otherwise the demo machine. */
const init = `#!/bin/sh
export PATH=/usr/bin:/bin PS1='# '
mount -t devtmpfs devtmpfs /dev
(while :; do setsid sh -i < /dev/ttyS0 > /dev/ttyS0 2>&1; done) &
exec /init
`;

/** A client that remembers what it has seen. */
class Screen {
  readonly socket: WebSocket;
  readonly closed: Promise<{ code: number; reason: string }>;
  text = '';

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on('message', (data, isBinary) => {
      assert.ok(isBinary);
      this.text += (data as Buffer).toString('latin1');
    });
    this.closed = once(socket, 'close').then(([code, reason]) => ({
      code: code as number,
      reason: String(reason),
    }));
    socket.resume();
  }

  type(keys: string): void {
    this.socket.send(Buffer.from(keys));
  }

  async shows(pattern: RegExp): Promise<void> {
    await eventually(`${String(pattern)} is shown`, () => Promise.resolve(pattern.test(this.text)));
  }
}

describe('the serial console of a virtual machine', { skip: noMachines, timeout: 300_000 }, () => {
  let grid: Grid;
  let user: HttpClient;
  let work: string;
  let site: string;
  let displayed: string;
  let child: ChildProcess | undefined;
  const path = (query = ''): string => `${site}/console${query}`;
  const open = async (query?: string, client = user, headers = {}): Promise<Screen> =>
    new Screen(await client.webSocket(path(query), { headers, signal }));
  const log = (): Promise<string> =>
    readFile(join(grid.layout.state, 'vms', site.split('/').at(-1)!, 'console.log'), 'latin1');

  before(async () => {
    work = await mkdtemp(join(tmpdir(), 'vsite-console-'));
    grid = await Grid.start({
      prepare: async (grid) => {
        await grid.set('targetsystem', 'console', { perUser: 3, idleSeconds: 600 });
        await grid.set('targetsystem', 'audit', { file: join(grid.layout.state, 'audit.log') });
      },
    });
    user = await grid.user();
    const cacheDir = join(defaultCacheDirectory(), 'images');
    const demo = await buildDemoVm({ cacheDir, log: silentLog });
    const script = { type: 'file', content: Buffer.from(init), mode: 0o755, owner: 0 } as const;
    // the kernel unpacks one archive after the other; one that is compressed has to be the last
    const parts = [...cpio(new Map([['/shell-init', script]])), await readFile(demo.initrd)];
    const initrd = join(work, 'initrd');
    await writeFile(initrd, Buffer.concat(parts));
    await publish(await grid.creator(), {
      ...demo,
      metadata: { ...demo.metadata, boot: { commandLine: 'rdinit=/shell-init' } },
      parts: { ...demo.parts, initrd },
    });
    const { metadata } = demo;
    await publish(await grid.creator(), {
      ...demo,
      metadata: { ...metadata, name: 'vsite-screen', display: true },
    });
    site = await createTargetSystem(user, 'vsite-demo', { cpus: 1 });
    displayed = await createTargetSystem(user, 'vsite-screen', { cpus: 1 });
    await waitUntilReady(user, site, signal, () => undefined);
    await waitUntilReady(user, displayed, signal, () => undefined);
  });
  after(async () => {
    child?.kill('SIGKILL');
    await grid[Symbol.asyncDispose]();
    await rm(work, { recursive: true });
  });

  it('has a shell that answers; others watch, and the log is complete', async () => {
    const typist = await open();
    const watcher = await open('?watch=true');
    typist.type('echo $((6 * 7))-is-it\n');
    await Promise.all([typist.shows(/^42-is-it/m), watcher.shows(/^42-is-it/m)]);
    await eventually('it is in the log', async () => /^42-is-it/m.test(await log()));
    // megabytes, and nothing is lost on the way
    typist.type('i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done; echo done-$i\n');
    await Promise.all([typist.shows(/^done-3000/m), watcher.shows(/^done-3000/m)]);
    const lines = (text: string): number => text.match(/^line-\d+\r/gm)?.length ?? 0;
    assert.deepEqual(
      [lines(typist.text), lines(watcher.text), lines(await log())],
      [3e3, 3e3, 3e3],
    );
    watcher.type('x');
    assert.deepEqual(await watcher.closed, { code: 1008, reason: 'who watches does not type' });
    typist.socket.close();
    await typist.closed;
  });

  it('is written to while nobody is there', async () => {
    const first = await open();
    first.type('(until [ -e /tmp/go ]; do sleep 0.1; done; echo alone-$((40 + 2))) &\n');
    await first.shows(/alone-\$/);
    first.socket.close();
    await first.closed;
    await user.json('POST', `${site}/jobs`, { Executable: 'touch /tmp/go' });
    await eventually('it is in the log', async () => (await log()).includes('alone-42'));
  });

  it('belongs to one writer at a time, and to those who may change the target system', async () => {
    const first = await open();
    await assert.rejects(open(), refusal(409, /somebody types at this console: force=true/));
    const second = await open('?force=true');
    const { code, reason } = await first.closed;
    assert.deepEqual([code, reason], [1008, 'somebody else has taken over']);
    second.type('echo taken-$((1 + 1))\n');
    await second.shows(/^taken-2/m);

    const mallory = await grid.addUser('mallory', 'hopeless42');
    await assert.rejects(open('', mallory), refusal(403, /access denied/));
    await assert.rejects(open('?watch=true', mallory), refusal(403, /access denied/));
    await user.json('PUT', site, { acl: ['read:DN:CN=mallory,O=VSite,C=EU'] });
    await assert.rejects(open('?force=true', mallory), refusal(403, /watch=true may be allowed/));
    const watcher = await open('?watch=true', mallory);
    second.type('echo seen-$((1 + 2))\n');
    await watcher.shows(/^seen-3/m);

    const more = [await open('?watch=true'), await open('?watch=true')];
    await assert.rejects(open('?watch=true'), refusal(429, /3 of each user/));
    for (const each of [second, watcher, ...more]) {
      each.socket.close();
      await each.closed;
    }
    const audit = await readFile(join(grid.layout.state, 'audit.log'), 'utf8');
    assert.match(audit, /"allowed":true,.*"GET \/sites\/:siteId\/console \(to type\)"/);
    assert.match(audit, /"allowed":false,.*mallory.*"GET \/sites\/:siteId\/console \(to type\)"/);
  });

  it('opens for no page of another origin, and for no handshake that is none', async () => {
    const origin = { origin: 'https://evil.example' };
    await assert.rejects(open('', user, origin), refusal(403, /pages of this origin/));
    const own = await open('', user, { origin: grid.url });
    own.socket.close();
    await own.closed;
    await assert.rejects(user.upgrade(path(), 'websocket', { headers: { accept: '*/*' } }), refusal(400, /Sec-WebSocket-Key/)); // prettier-ignore
  });

  it('is reached by the command line, until the escape key', async () => {
    const program = grid.vsite(['site', 'console', site.split('/').at(-1)!]);
    child = program;
    let shown = '';
    program.stdout.on('data', (chunk: Buffer) => (shown += chunk.toString()));
    program.stdin.write('echo from-$((2 + 2))\n');
    await eventually('it answers', () => Promise.resolve(/^from-4/m.test(shown)));
    program.stdin.write('\x1d');
    assert.deepEqual(await once(program, 'exit'), [0, null]);
    await eventually('it is free again', async () => {
      const next = await open().catch(() => undefined);
      next?.socket.close();
      await next?.closed;
      return next !== undefined;
    });
  });

  it('is there for a container, too', { skip: noContainers }, async () => {
    await grid.publishDemo('container');
    const container = await createTargetSystem(user, 'vsite-demo-container', { cpus: 1 });
    await waitUntilReady(user, container, signal, () => undefined);
    const typist = new Screen(await user.webSocket(`${container}/console`, { signal }));
    typist.type('is anybody there?');
    await typist.shows(/is anybody there\?/); // its terminal echoes
    await user.json('DELETE', container);
    assert.equal((await typist.closed).code, 1001);
  });

  it('has a screen beside it where the image has a display, as a picture and by VNC', async () => {
    const picture = (of: string, client = user) =>
      client.download(`${of}/screen`, { headers: { accept: 'image/png' } });
    await assert.rejects(picture(site), refusal(409, /metadata say no display/));
    const mallory = await grid.addUser('mallet', 'hopeless42');
    await assert.rejects(picture(displayed, mallory), refusal(403, /access denied/));
    await eventually('the machine has written to it', async () => {
      const { headers, body } = await picture(displayed);
      const { width, height, data } = PNG.sync.read(await buffer(body));
      assert.deepEqual([headers['content-type'], width, height], ['image/png', 720, 400]);
      return data.some((value, at) => at % 4 !== 3 && value > 0);
    });

    const program = grid.vsite(['site', 'screen', displayed.split('/').at(-1)!, '--json']);
    child = program;
    const { port } = JSON.parse(String((await once(program.stdout, 'data'))[0])) as {
      port: number;
    };
    const viewer = connect(port, '127.0.0.1').on('error', () => undefined);
    const hears = async (bytes: number): Promise<Buffer> => {
      for (;;) {
        const got = viewer.read(bytes) as Buffer | null;
        if (got) return got;
        await once(viewer, 'readable');
      }
    };
    // RFC 6143, section 7: version, no password, shared, the size of the screen
    assert.equal(String(await hears(12)), 'RFB 003.008\n');
    viewer.write('RFB 003.008\n');
    assert.deepEqual([...(await hears(2))], [1, 1]);
    viewer.write(Buffer.from([1]));
    assert.equal((await hears(4)).readUInt32BE(), 0);
    viewer.write(Buffer.from([1]));
    const start = await hears(24);
    assert.deepEqual([start.readUInt16BE(0), start.readUInt16BE(2)], [720, 400]);
    const closed = new Promise((done) => viewer.resume().once('close', done)); // or reset
    await user.json('DELETE', displayed);
    await closed;
    program.kill('SIGINT');
    await once(program, 'exit');
  });

  it('ends with its machine', async () => {
    const typist = await open();
    await user.json('DELETE', site);
    const { code, reason } = await typist.closed;
    assert.equal(code, 1001);
    assert.match(reason, /the machine has ended|the console has closed/);

    assert.match(await grid.logText(), /"msg":"console closed"/);
  });
});
