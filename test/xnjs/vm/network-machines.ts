// Run by network.test.ts in a network namespace of its own: libvirt's networks and rules end with it.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { startLibvirtd } from '#cli/host/libvirtd.js';
import { buildImage, type BuiltImage } from '#cli/image/build.js';
import { projectRoot } from '#kernel/project-root.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { ImageMetadata } from '#imagerepo/contract.js';
import { MachineAuthority } from '#xnjs/vm/context/machine-authority.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { makeCertificates } from '../../tsi/certificates.js';
import { until } from '../job/rig.js';
import {
  bootMs,
  installationId,
  ownerDn,
  startServer,
  useCache,
  type NetworkServer,
} from './network-server.js';

const serverDn = 'CN=XNJS 1,O=Grid,C=EU';

/** The demo image with a key of its own, and the name of the server that may use it. */
async function buildWithKeys(directory: string): Promise<{ image: BuiltImage; tls: object }> {
  const source = join(projectRoot, 'config', 'images');
  cpSync(source, join(directory, 'images'), { recursive: true });
  const recipe = join(directory, 'images', 'demo-network');
  const keys = join(recipe, 'root', 'etc', 'vsite');
  const { tsi, xnjs } = await makeCertificates(keys);
  const properties = [
    'tsi.my_port = 4433',
    'tsi.keystore = /etc/vsite/key.pem',
    'tsi.certificate = /etc/vsite/cert.pem',
    'tsi.truststore = /etc/vsite/ca.pem',
    `tsi.allowed_dn.1 = ${serverDn}`,
  ];
  assert.equal(tsi.length, 3); // the three files are where the properties say
  writeFileSync(join(keys, 'tsi.properties'), `${properties.join('\n')}\n`);
  const cacheDir = join(directory, 'cache');
  useCache(cacheDir);
  const image = await buildImage(recipe, { cacheDir, log: silentLog });
  const files = { keyFile: join(directory, 'key.pem'), certFile: join(directory, 'cert.pem') };
  writeFileSync(files.keyFile, xnjs.key);
  writeFileSync(files.certFile, xnjs.cert);
  const metadata = ImageMetadata.parse({
    ...image.metadata,
    tsi: { ...image.metadata.tsi, tls: { dn: 'CN=TSI,O=Grid', ca: xnjs.ca } },
  });
  return { image: { ...image, metadata }, tls: files };
}

describe('machines whose TSI is reached over a network', { timeout: 600_000 }, () => {
  const shared = new Scope();
  let server: NetworkServer;
  let again: () => Promise<void>;
  const ids: string[] = [];
  let uri: string;

  before(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vsite-net-'));
    shared.defer(() => rmSync(directory, { recursive: true, force: true }));
    const [libvirtd, { image, tls }] = await Promise.all([
      startLibvirtd({
        stateDir: join(directory, 'libvirt'),
        cacheDir: join(defaultCacheDirectory(), 'libvirt'),
        log: silentLog,
        sharedNetwork: true,
      }),
      buildWithKeys(directory),
    ]);
    shared.defer(() => libvirtd.stop());
    const authority = await MachineAuthority.open(
      join(directory, 'machines.pem'),
      installationId,
      1,
    );
    // what it takes for a silent one by itself is long (test/xnjs/tsi/silence.test.ts)
    const enrolment = { authority, tokenMs: 600_000 };
    const systems = { enrolment, watchMs: 500, silenceMs: 3_000 };
    uri = libvirtd.uri('qemu');
    const start = () => startServer(directory, { images: [image], tls, uri, systems });
    server = await start();
    shared.defer(() => server.scope.close());
    again = async () => {
      await server.scope.close();
      server = await start();
    };
  });
  after(() => shared.close());

  async function create(): Promise<string> {
    const wish = { ownerDn, image: 'vsite-demo-network', parameters: {}, tags: [] };
    const { id } = await server.systems.create(wish);
    ids.push(id);
    return id;
  }

  async function ready(id: string): Promise<void> {
    const state = (): string => server.systems.get(id).state;
    await until('READY or FAILED', () => ['READY', 'FAILED'].includes(state()), bootMs);
    assert.equal(state(), 'READY', server.systems.get(id).evidence.fact);
  }

  /** What a job printed. */
  async function run(targetId: string, script: string): Promise<string> {
    const { engine } = server;
    const description = { Executable: script };
    const { id } = await engine.submit({ ownerDn, targetId, description });
    await until('the job is over', async () => (await engine.get(id)).state === 'DONE', bootMs);
    const job = await engine.get(id);
    assert.equal(job.run.result?.message, '');
    const target = server.systems.find(targetId);
    assert.ok(target && job.directory);
    return await text(target.tsi().read(target.identity, `${job.directory}stdout`));
  }

  it('are bound with TLS at the address that libvirt gave them, and run jobs', async () => {
    await Promise.all([create(), create()].map(async (id) => ready(await id)));
    const [one = '', two = ''] = ids;
    const printed = await Promise.all([one, two].map((id) => run(id, 'id -un')));
    assert.deepEqual(printed, ['grid\n', 'grid\n']);
    const keys = ids.map((id) => server.systems.get(id).enrolment?.keyHash);
    assert.ok(keys.every((key) => key !== undefined) && keys[0] !== keys[1], 'each has its own');
  });

  it('reach the ports for call-backs on the server, and nothing else', async () => {
    const elsewhere = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => elsewhere.listen(0, resolve));
    const { port } = elsewhere.address() as AddressInfo;
    shared.defer(() => elsewhere.close());
    const [one = '', two = ''] = ids;
    const own = "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'";
    const other = (await run(two, own)).trim();
    assert.match(other, /^10\.177\.\d+\.\d+$/);
    const probes = [
      ['10.177.0.1', 7654],
      ['10.177.0.1', port],
      ['10.177.0.1', 53],
      [other, 4433],
    ];
    // one program for all: a second of this machine's is long
    const probe =
      `const n=require('net');const ask=([host,port])=>new Promise((say)=>{` +
      `const s=n.connect({host,port});s.on('connect',()=>say('open'));` +
      `s.on('error',(e)=>say(e.code));setTimeout(()=>say('silent'),3000)});` +
      `Promise.all(${JSON.stringify(probes)}.map(ask)).then((all)=>{console.log(all.join());process.exit()})`;
    const printed = await run(one, `node -e '${probe.replaceAll("'", `'"'"'`)}'`);
    assert.equal(printed, 'open,silent,silent,silent\n');
  });

  const virsh = (...args: string[]): string =>
    execFileSync('virsh', ['-q', '-c', uri, ...args], { encoding: 'utf8' });
  const isRunning = async (jobId: string): Promise<boolean> =>
    (await server.engine.get(jobId)).state === 'RUNNING';

  /** A machine whose network is cut, healed, and which is as it was. */
  async function cut(id: string, jobId: string, ...ways: ('INPUT' | 'OUTPUT')[]): Promise<void> {
    const card = /\bvnet\d+/.exec(virsh('domiflist', `vsite-${id}`))?.[0] ?? '';
    const rules = (action: '-I' | '-D'): void => {
      for (const way of ways)
        execFileSync('ebtables', [action, way, way === 'INPUT' ? '-i' : '-o', card, '-j', 'DROP']);
    };
    rules('-I');
    try {
      await until('it is silent', () => server.systems.get(id).state === 'UNREACHABLE', 60_000);
      const { evidence, views } = server.systems.get(id);
      assert.match(evidence.fact, /agent does not answer; the machine runs/);
      assert.deepEqual([views?.agent?.says, views?.hypervisor?.says], ['down', 'running']);
      assert.ok(await isRunning(jobId));
    } finally {
      rules('-D');
    }
    await until('READY', () => server.systems.get(id).state === 'READY', 60_000);
  }

  it('are UNREACHABLE while their network is cut, whichever way, never stopped; jobs go on and are found again', async () => {
    const states = () =>
      ids.map((id) => [server.systems.get(id).generation, virsh('domid', `vsite-${id}`)]);
    const before = states();
    const description = {
      Executable: 'n=0; until [ -e /tmp/go ]; do n=$((n+1)); sleep 0.2; done; echo over',
    };
    const jobs = await Promise.all(
      ids.map((targetId) => server.engine.submit({ ownerDn, targetId, description })),
    );
    for (const { id } of jobs) await until('it runs', () => isRunning(id), bootMs);
    const [one = '', two = ''] = ids;
    const [first = '', second = ''] = jobs.map(({ id }) => id);
    await Promise.all([cut(one, first, 'INPUT'), cut(two, second, 'OUTPUT')]);
    await cut(one, first, 'INPUT', 'OUTPUT');
    await Promise.all(ids.map((id) => run(id, 'touch /tmp/go')));
    for (const { id } of jobs) {
      const state = async () => (await server.engine.get(id)).state;
      await until('the job is over', async () => (await state()) === 'DONE', bootMs);
      assert.equal((await server.engine.get(id)).run.result?.message, '');
    }
    assert.deepEqual(states(), before, 'they are the same machines');
  });

  it('are bound again after a restart of the server', async () => {
    await again();
    const [one = ''] = ids;
    await until('READY', () => server.systems.find(one)?.tsi !== undefined);
    assert.equal(await run(one, 'echo back'), 'back\n');
  });

  it('leave nothing behind', async () => {
    for (const id of ids) await server.systems.destroy(id);
    await until('all are gone', () => server.systems.list().length === 0, bootMs);
  });
});
