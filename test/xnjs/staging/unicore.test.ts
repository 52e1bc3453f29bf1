import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  chmodSync,
  chownSync,
} from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { anonymous } from '#kernel/http/caller.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { Scope } from '#kernel/scope.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { fileOperations } from '#targetsystem/rest/files.js';
import { storageOperations } from '#targetsystem/rest/storages.js';
import { TsiFileSpace } from '#xnjs/files/tsi-file-space.js';
import type { Storage } from '#xnjs/storage/storage.js';
import type { Job } from '#xnjs/job/job.js';
import { identity } from '../job/rig.js';
import {
  ownerDn,
  secondTargetId,
  startStaging,
  strangersTargetId,
  type StagingRig,
} from './rig.js';
import { startWeb, type WebServer } from './web-server.js';
import { siteUrl } from './wiring.js';

const basic = { Username: 'alice', Password: 'secret' };
const authorization = `Basic ${Buffer.from('alice:secret').toString('base64')}`;

describe('staging from and to UNICORE storages', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: StagingRig;
  /** The REST face of another installation, whose storage is a directory on this machine. */
  let remote: string;
  let storage: Job;
  const asked: string[] = [];
  /** Sites that get our word for users. */
  const trusted = new Set<string>();
  const wordFor = (dn: string): string => Buffer.from(dn).toString('base64');
  const big = randomBytes(2_500_000);

  before(async () => {
    rig = await startStaging(scope, {
      config: { retries: 1 },
      onBehalfOf: (dn, site) =>
        Promise.resolve(trusted.has(site.href.replace(/\/$/, '')) ? wordFor(dn) : undefined),
    });
    storage = await rig.makeJob({});
    const base = await startRemote();
    trusted.add(base);
    remote = `${base}/rest/core/storages/${storage.id}-uspace/files`;
    fill(storage);
  });
  after(() => scope.close());

  /** Everything real but the look-ups of a job and its target system. */
  async function startRemote(): Promise<string> {
    const storageOf = (id: string): Storage => ({
      ...{ id, ownerDn, kind: 'USPACE', description: '', umask: '77', tags: [], acl: [] },
      ...{ status: 'READY', statusMessage: '', filesystem: '', metadata: false },
      files: () =>
        new TsiFileSpace({
          root: `${rig.directory}/jobs/${id.replace(/-uspace$/, '')}`,
          identity,
          tsi: rig.tsi,
        }),
    });
    const deps = {
      storages: { get: (id: string) => Promise.resolve(storageOf(id)) },
      clock: systemClock,
    } as unknown as RestDeps; // what the operations of storages use of it
    const app = createRestApp({
      mounts: [mount('/rest/core', [...storageOperations, ...fileOperations], deps)],
      authenticate: ({ headers, method = '', url = '' }) => {
        asked.push(`${method} ${url}`);
        const delegated = headers.authorization === `Bearer ${wordFor(ownerDn)}`;
        return headers.authorization === authorization || delegated
          ? { dn: ownerDn, role: 'user' }
          : anonymous;
      },
      externalUrl: 'https://elsewhere.example.org/SITE',
      log: silentLog,
    });
    const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
    return `http://127.0.0.1:${port}`;
  }

  function fill(job: Job): void {
    mkdirSync(rig.path(job, 'data/sub'), { recursive: true });
    const files = {
      'data/a1.dat': 'a1',
      'data/a2.dat': 'a2',
      'data/b.txt': 'b',
      'data/sub/c.dat': 'c',
      'big file+%.bin': big,
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(rig.path(job, name), text);
    chmodSync(rig.path(job, 'data/a1.dat'), 0o750);
    if (process.getuid?.() !== 0) return;
    for (const name of ['.', 'data', 'data/sub', ...Object.keys(files)])
      chownSync(rig.path(job, name), 65_534, 65_534);
  }

  const encoded = encodeURIComponent('big file+%.bin');

  it('imports a file, its permissions, with credentials or on behalf of the user', async () => {
    const { job } = await rig.imports([
      { From: `${remote}/data/a1.dat`, To: 'x', Credentials: basic },
      { From: `BFT:${remote}/${encoded}`, To: 'y/' },
    ]);
    assert.equal(rig.read(job, 'x'), 'a1');
    assert.equal(statSync(rig.path(job, 'x')).mode & 0o777, 0o750);
    assert.deepEqual(readFileSync(rig.path(job, 'y/big file+%.bin')), big);
  });

  it('imports patterns and whole directories', async () => {
    const { job } = await rig.imports([
      { From: `${remote}/data/a?.dat`, To: 'a' },
      { From: `${remote}/*/*.txt`, To: 'b' },
      { From: `${remote}/data`, To: 'all' },
    ]);
    assert.deepEqual(readdirSync(rig.path(job, 'a')), ['a1.dat', 'a2.dat']);
    assert.equal(rig.read(job, 'b/data/b.txt'), 'b');
    assert.deepEqual(readdirSync(rig.path(job, 'all')), ['a1.dat', 'a2.dat', 'b.txt', 'sub']);
    assert.equal(rig.read(job, 'all/sub/c.dat'), 'c');
  });

  it('exports files, patterns and directories under their own names, whole files only', async () => {
    const job = await rig.makeJob({
      Imports: [
        { To: 'out/r1', Data: 'one', Permissions: 'rwxr-x---' },
        { To: 'out/r2', Data: 'two' },
      ],
      Exports: [
        { From: 'out/r1', To: `${remote}/results/renamed` },
        { From: 'out/r*', To: `${remote}/results/` },
        { From: 'out', To: `${remote}/results/tree`, Credentials: basic },
      ],
    });
    await rig.stage(job, 'in');
    await rig.stage(job, 'out');
    assert.equal(rig.read(storage, 'results/renamed'), 'one');
    assert.equal(statSync(rig.path(storage, 'results/renamed')).mode & 0o777, 0o750);
    assert.equal(rig.read(storage, 'results/r2'), 'two');
    assert.deepEqual(readdirSync(rig.path(storage, 'results/tree')), ['r1', 'r2']);
    assert.deepEqual(readdirSync(rig.path(storage, 'results')).sort(), [
      'r1',
      'r2',
      'renamed',
      'tree',
    ]);
  });

  it('keeps what must not be overwritten: silently on import, as an error on export', async () => {
    const entry = { From: `${remote}/data/a1.dat`, To: 'x', Mode: 'nooverwrite' };
    const { job, log } = await rig.imports([{ To: 'x', Data: 'mine' }, entry]);
    assert.equal(rig.read(job, 'x'), 'mine');
    assert.ok(log.some((line) => line.includes('kept x')));
    const out = await rig.makeJob({
      Imports: [{ To: 'x', Data: 'mine' }],
      Exports: [{ From: 'x', To: `${remote}/data/b.txt`, Mode: 'nooverwrite' }],
    });
    await rig.stage(out, 'in');
    await assert.rejects(rig.stage(out, 'out'), { code: 'CONFLICT' });
    assert.equal(rig.read(storage, 'data/b.txt'), 'b');
  });

  it('says what is missing or not allowed', async () => {
    const at = remote.replace(/^http/, 'http');
    await assert.rejects(rig.imports([{ From: `${at}/none`, To: 'x' }]), /there is no file \/none/);
    await assert.rejects(rig.imports([{ From: `${at}/*.none`, To: 'x' }]), /no file matches/);
    const wrong = { Username: 'eve', Password: 'guess' };
    await assert.rejects(
      rig.imports([{ From: `${at}/data`, To: 'x', Credentials: wrong }]),
      ({ code, message }: { code: string; message: string }) =>
        code === 'FORBIDDEN' && !message.includes('guess'),
    );
  });

  describe('our word for the user', () => {
    const file = { isDirectory: false, size: 1 };
    const path = '/rest/core/storages/S/files/f';
    /** A site that sends elsewhere whoever wants the content. */
    const startSite = (location: () => string) =>
      startWeb(scope, (request, response, { path: asked }) => {
        if (request.headers.accept === 'application/json') response.end(JSON.stringify(file));
        else if (asked.endsWith('/f')) response.writeHead(307, { location: location() }).end();
        else response.end('x');
      });
    const said = ({ seen }: WebServer) => seen.map(({ headers }) => headers.authorization);
    const word = `Bearer ${wordFor(ownerDn)}`;

    it('goes to a trusted site, and by no redirect, not even to the same host', async () => {
      let location = '/rest/core/elsewhere';
      const site = await startSite(() => location);
      const other = await startSite(() => '');
      trusted.add(site.url);
      const { job } = await rig.imports([{ From: `${site.url}${path}`, To: 'x' }]);
      assert.equal(rig.read(job, 'x'), 'x');
      assert.deepEqual(said(site), [word, word, undefined]);
      location = `${other.url}/there`;
      trusted.add(other.url);
      await rig.imports([{ From: `${site.url}${path}`, To: 'x' }]);
      assert.deepEqual(said(other), [undefined]);
    });

    it('goes to nobody else: other hosts, other paths of a host, who looks like it', async () => {
      const site = await startSite(() => '/x');
      trusted.add(`${site.url}/SITE`);
      for (const base of ['', '/OTHER', '/SITE/OTHER', '/SITEX', '/SITE/..%2fOTHER', '/%53ITE']) {
        await rig.imports([{ From: `${site.url}${base}${path}`, To: 'x' }]);
        assert.ok(site.seen.length > 0);
        assert.deepEqual([...new Set(said(site))], [undefined], base);
        site.seen.length = 0;
      }
      for (const out of ['%2e%2e', '.%2E', '..%2f..', '%252e%252e'])
        for (const from of [
          `/SITE/rest/core/storages/S/files/${out}/${out}/${out}/${out}/${out}/${out}/OTHER/f`,
          `/SITE/rest/core/storages/${out}/files/f`,
        ]) {
          await rig.imports([{ From: `${site.url}${from}`, To: 'x' }]).catch(() => undefined);
          for (const { path: asked, headers } of site.seen)
            assert.ok(
              !headers.authorization || asked.startsWith('/SITE/rest/core/storages/'),
              asked,
            );
          site.seen.length = 0;
        }
      const given = { From: `${site.url}/SITE${path}`, To: 'x', Credentials: basic };
      await rig.imports([given]);
      assert.ok(!said(site).includes(word), 'the user has credentials of his own there');
    });
  });

  describe('of this very site', () => {
    const own = (job: Job, path: string): string =>
      `${siteUrl}/rest/core/storages/${job.id}-uspace/files/${path}`;

    it('copies within a target system, and streams between two, without HTTP', async () => {
      const elsewhere = await rig.makeJob({}, { targetId: secondTargetId });
      fill(elsewhere);
      asked.length = 0;
      const { job } = await rig.imports([
        { From: own(storage, encoded), To: 'here' },
        { From: `BFT:${own(elsewhere, encoded)}`, To: 'there' },
        { From: own(storage, 'data'), To: 'tree' },
        { From: own(storage, 'data/a?.dat'), To: 'some' },
        { From: own(storage, 'data/b.txt'), To: 'linked', ReadOnly: true },
        { From: own(storage, 'data/b.txt'), To: 'twice' },
        { From: own(storage, 'data/b.txt'), To: 'twice', Mode: 'append' },
      ]);
      assert.deepEqual(readFileSync(rig.path(job, 'here')), big);
      assert.deepEqual(readFileSync(rig.path(job, 'there')), big);
      assert.equal(rig.read(job, 'tree/sub/c.dat'), 'c');
      assert.deepEqual(readdirSync(rig.path(job, 'some')), ['a1.dat', 'a2.dat']);
      assert.equal(rig.read(job, 'linked'), 'b');
      assert.equal(rig.read(job, 'twice'), 'bb');
      assert.deepEqual(asked, []);
    });

    it('exports to storages of this site, appending and not overwriting', async () => {
      const target = await rig.makeJob({}, { targetId: secondTargetId });
      const job = await rig.makeJob({
        Imports: [{ To: 'out/r', Data: 'r' }],
        Exports: [
          { From: 'out/r', To: own(target, 'log'), Mode: 'nooverwrite' },
          { From: 'out/r', To: own(target, 'log'), Mode: 'append' },
          { From: 'out', To: own(target, 'tree') },
          { From: 'out/*', To: own(storage, 'mine') },
        ],
      });
      await rig.stage(job, 'in');
      await rig.stage(job, 'out');
      assert.equal(rig.read(target, 'log'), 'rr');
      assert.equal(rig.read(target, 'tree/r'), 'r');
      assert.equal(rig.read(storage, 'mine/r'), 'r');
      const again = { ...job, id: (await rig.makeJob(job.description)).id };
      await rig.stage(again, 'in');
      await assert.rejects(rig.stage(again, 'out'), { code: 'CONFLICT' });
    });

    it('brings files to a storage on the server, and back into another job', async () => {
      const data = `${siteUrl}/rest/core/storages/DATA/files`;
      const job = await rig.makeJob({
        Imports: [
          { To: 'out/r', Data: 'r' },
          { To: 'out/sub/s', Data: 's' },
        ],
        Exports: [
          { From: 'out', To: `${data}/kept` },
          { From: 'out/r', To: `${data}/one/` },
          { From: 'out/r', To: `${data}/kept/r`, Mode: 'nooverwrite', FailOnError: 'false' },
        ],
      });
      await rig.stage(job, 'in');
      await rig.stage(job, 'out');
      const { job: later } = await rig.imports([
        { From: `${data}/kept`, To: 'tree' },
        { From: `${data}/one/r`, To: 'r' },
      ]);
      assert.equal(rig.read(later, 'tree/sub/s'), 's');
      assert.equal(rig.read(later, 'r'), 'r');
    });

    it('does not show the storages of others', async () => {
      const theirs = await rig.makeJob({}, { targetId: strangersTargetId, ownerDn: 'CN=Stranger' });
      await assert.rejects(rig.imports([{ From: own(theirs, 'x'), To: 'x' }]), {
        code: 'NOT_FOUND',
      });
      const home = `${siteUrl}/rest/core/storages/${strangersTargetId}-HOME/files/.bashrc`;
      await assert.rejects(rig.imports([{ From: home, To: 'x' }]), { code: 'NOT_FOUND' });
    });
  });
});
