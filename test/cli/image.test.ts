import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { waitFor } from '#cli/host/process.js';
import { cpio, tar, type Entry, type Tree } from '#cli/image/archive.js';
import { buildDemoContainer, buildDemoVm, buildImage } from '#cli/image/build.js';
import { qemuArguments } from '#cli/image/qemu.js';
import { projectRoot } from '#kernel/project-root.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';

const run = promisify(execFile);
const shared = join(defaultCacheDirectory(), 'images');
const demoVm = join(projectRoot, 'config', 'images', 'demo-vm');

/** Fails when it starts first, then says on its port what it sees, and leaves when told to. */
const portAgent = `
  import { existsSync, openSync, readFileSync, readSync, statSync, writeFileSync } from 'node:fs';
  import { hostname } from 'node:os';
  declare const AGENT_VERSION: string;
  if (!existsSync('/run/failed')) {
    writeFileSync('/run/failed', '');
    process.exit(3);
  }
  const show = (path: string) => {
    const { mode, uid } = statSync(path);
    return (mode & 0o7777).toString(8) + ' ' + uid;
  };
  const boot = JSON.parse(readFileSync('/run/vsite/boot.json', 'utf8'));
  const facts = { version: AGENT_VERSION, host: hostname(), home: show('/home/grid'), tmp: show('/tmp') };
  const link = /^tsi.link = (.*)$/m.exec(readFileSync(process.argv[2]!, 'utf8'))![1]!;
  const port = openSync(link, 'r+');
  writeFileSync(port, JSON.stringify({ ...boot, ...facts }) + '\\n');
  readSync(port, Buffer.alloc(16));
  process.kill(process.pid, 'SIGTERM');`;

let folder: string;
let agentEntry: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vsite-image-'));
  agentEntry = join(folder, 'agent.ts');
  await writeFile(agentEntry, 'console.log("an agent");\n');
});
after(() => rm(folder, { recursive: true, force: true }));

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

/** A cache that knows the kernel already, so that no test but the first downloads it. */
async function newCache(name: string): Promise<string> {
  const cacheDir = join(folder, name);
  await mkdir(cacheDir);
  const kernels = join(shared, 'kernels');
  await cp(kernels, join(cacheDir, 'kernels'), { recursive: true }).catch(() => {
    // nobody has built an image here yet
  });
  return cacheDir;
}

describe('archives', () => {
  const file = (content: string, mode: number, owner = 0) =>
    ({ type: 'file', content: Buffer.from(content), mode, owner }) as const;
  const tree: Tree = new Map<string, Entry>([
    ['/home/grid/b', file('five!', 0o640, 1000)],
    ['/home/grid', { type: 'directory', mode: 0o700, owner: 1000 }],
    ['/home', { type: 'directory', mode: 0o1777, owner: 0 }],
    ['/sh', { type: 'link', target: 'home/grid/b', mode: 0o777, owner: 0 }],
    ['/empty', file('', 0o4755)],
  ]);
  const expected = [
    ['-rwsr-xr-x', 'empty', '0/0'],
    ['drwxrwxrwt', 'home', '0/0'],
    ['drwx------', 'home/grid', '1000/1000'],
    ['-rw-r-----', 'home/grid/b', '1000/1000'],
    ['lrwxrwxrwx', 'sh', '0/0'],
  ];

  it('of tar are what tar reads', async () => {
    const path = join(folder, 'tree.tar');
    await writeFile(path, Buffer.concat([...tar(tree)]));
    const { stdout } = await run('tar', ['--numeric-owner', '-tvf', path]);
    const rows = stdout.trim().split('\n');
    const read = rows.map((row) => {
      const [mode, owner, , , , name = ''] = row.split(/ +/);
      return [mode, name.replace(/\/$/, ''), owner];
    });
    assert.deepEqual(read, expected);
    const content = await run('tar', ['-xOf', path, 'home/grid/b']);
    assert.equal(content.stdout, 'five!');
  });

  it('of cpio are what cpio reads', async () => {
    const child = spawn('busybox', ['cpio', '-tv']);
    child.stdin.end(Buffer.concat([...cpio(tree)]));
    const rows = (await text(child.stdout)).trim().split('\n');
    const read = rows.map((row) => {
      const [mode, owner, , , , name = ''] = row.split(/ +/);
      return [mode, name.replace(/ ->.*/, ''), owner];
    });
    assert.deepEqual(read, expected);
  });

  it('do not depend on the order in which the tree was put together', () => {
    const reversed = new Map<string, Entry>([...tree].reverse());
    assert.deepEqual([...tar(reversed)], [...tar(tree)]);
    assert.deepEqual([...cpio(reversed)], [...cpio(tree)]);
  });
});

describe('demo images', { concurrency: false }, () => {
  it('have the same bytes wherever and whenever they are built', async () => {
    const build = async (cacheDir: string) => {
      const options = { cacheDir, log, agentEntry };
      const [vm, container] = [await buildDemoVm(options), await buildDemoContainer(options)];
      assert.deepEqual([vm.cached, container.cached], [false, false]);
      return Promise.all([vm.kernel, vm.initrd, container.rootfs].map(hashOf));
    };
    assert.deepEqual(await build(await newCache('first')), await build(await newCache('second')));
  });

  it('say what they are in the words of the repository', async () => {
    const { metadata } = await buildDemoVm({ cacheDir: join(folder, 'second'), log, agentEntry });
    assert.equal(metadata.format, 'kernel');
    assert.deepEqual(
      metadata.applications.map(({ Name, Version }) => `${Name} ${Version}`),
      ['Transform 1.0', 'Wordcount 1.0'],
    );
    const release = await readFile('/etc/os-release', 'utf8');
    assert(release.includes(`VERSION_ID="${metadata.os.version}"`));
  });

  it('come from the cache as long as nothing they are made of changes', async () => {
    const options = { cacheDir: join(folder, 'first'), log, agentEntry };
    const before = await buildDemoContainer(options);
    assert.equal(before.cached, true);
    await writeFile(agentEntry, 'console.log("another agent");\n');
    const changed = await buildDemoContainer(options);
    assert.equal(changed.cached, false);
    assert.notEqual(changed.key, before.key);
  });

  it('boot to their agent, start it again when it fails, and power off when it leaves', async () => {
    const entry = join(folder, 'port.ts');
    await writeFile(entry, portAgent);
    const cacheDir = join(folder, 'first');
    const { kernel, initrd } = await buildDemoVm({ cacheDir, log, agentEntry: entry });
    const channelSocket = join(folder, 'agent.sock');
    const commandLine = 'vsite.name=vsite-demo';
    const options = {
      kernel,
      initrd,
      memoryMiB: 320,
      accel: 'tcg',
      channelSocket,
      commandLine,
    } as const;
    const guest = spawn('qemu-system-x86_64', qemuArguments(options));
    const ended = new Promise((resolve) => guest.once('close', resolve));
    const timer = setTimeout(() => guest.kill('SIGKILL'), 60_000);
    const said = text(guest.stdout);
    try {
      const socket = await connectAgent(channelSocket);
      const hello = JSON.parse(await nextLine(socket)) as Record<string, unknown>;
      const { version } = JSON.parse(
        await readFile(join(projectRoot, 'package.json'), 'utf8'),
      ) as Record<string, unknown>;
      const { userSpaceMs, ...rest } = hello;
      assert.deepEqual(rest, { version, host: 'vsite-demo', home: '700 1000', tmp: '1777 0' });
      assert(Number(userSpaceMs) > 0);
      socket.write('leave\n');
      assert.equal(await ended, 0);
      assert.match(await said, /vsite: user space[^]*ended with 3, starting it again/);
    } finally {
      clearTimeout(timer);
      guest.kill('SIGKILL');
    }
  });
});

describe('a recipe', () => {
  /** The demo machine's recipe with one line of it changed. */
  async function changed(from: string | RegExp, to: string): Promise<string> {
    const copy = await mkdtemp(join(folder, 'recipe-'));
    await cp(demoVm, copy, { recursive: true });
    const recipe = await readFile(join(copy, 'recipe.yaml'), 'utf8');
    const roots = recipe.replace('../common/root', relative(copy, join(demoVm, '../common/root')));
    await writeFile(join(copy, 'recipe.yaml'), roots.replace(from, to));
    return copy;
  }
  const cases = [
    ['an unknown key', /$/, 'colour: blue\n', 'CONFIG_INVALID'],
    ['a program that the host lacks', '[bash,', '[no-such-program,', 'IMAGE_INVALID'],
    ['a module that the kernel lacks', 'virtio_rng', 'no_such_module', 'IMAGE_INVALID'],
    ['a kernel that nobody has', 'linux-image-cloud-amd64', 'linux-image-none', 'IMAGE_INVALID'],
  ] as const;
  for (const [what, from, to, code] of cases)
    it(`with ${what} is refused and leaves nothing in the cache`, async () => {
      const cacheDir = await mkdtemp(join(folder, 'cache-'));
      // lists of packages that need no network: there are none
      await mkdir(join(cacheDir, 'kernels'));
      const recipe = await changed(from, to);
      await assert.rejects(buildImage(recipe, { cacheDir, log, agentEntry }), { code });
      const left = (await readdir(cacheDir)).filter((name) => name !== 'apt');
      assert.deepEqual([left, await readdir(join(cacheDir, 'kernels'))], [['kernels'], []]);
    });

  it('is not built with an agent that does not compile', async () => {
    const broken = join(folder, 'broken.ts');
    await writeFile(broken, 'import "./nowhere.js";');
    const options = { cacheDir: join(folder, 'broken'), log, agentEntry: broken };
    await assert.rejects(buildDemoContainer(options), { code: 'IMAGE_INVALID' });
  });
});

/** Connects once QEMU listens; what the guest says comes when it has booted. */
async function connectAgent(path: string): Promise<Socket> {
  const listens = () =>
    access(path).then(
      () => true,
      () => false,
    );
  assert(await waitFor(listens, 10_000), 'QEMU does not listen');
  return createConnection(path);
}

async function nextLine(socket: Socket): Promise<string> {
  let line = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    line += String(chunk);
    if (line.endsWith('\n')) return line;
  }
  throw new Error(`the guest hung up after "${line}"`);
}
