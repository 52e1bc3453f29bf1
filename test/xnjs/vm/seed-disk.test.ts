import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { Scope } from '#kernel/scope.js';
import { machineName } from '#xnjs/vm/context/machine-authority.js';
import { seedFiles } from '#xnjs/vm/context/seed-disk.js';
import { readOwnContext, requireContext } from '#xnjs/vm/context/own-context.js';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { findReason } from '../../grid/grid.js';
import { scratch } from '../job/rig.js';
import { anImageMetadata, aTargetSystem } from './samples.js';

const run = promisify(execFile);
const noFat = findReason([
  ['mcopy', '-V'],
  ['mkfs.fat', '--help'],
]);

const contextualisation = { nocloud: true, agent: true, userData: true };
const system = (changes: object = {}) =>
  aTargetSystem({
    image: {
      ...{ id: '0d9a7f0e-6a0c-4f3b-8a52-2f7d0a1b2c3d', parts: {} },
      metadata: anImageMetadata({ contextualisation, ...changes }),
    },
  });
const token = 'T'.repeat(43);
const key =
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFXeBFf8qDGW2ST6x6aTxjSZsBXSSBAZrc5fKiU5cGg9 alice@example.org';
/** What our script does to a system, done below a folder. */
const below = (root: string, script: string): string =>
  script.replaceAll(/(?<=[ "])\/(etc|var|run)\//g, `${root}/$1/`);
const context = { name: machineName(system()), hostName: 'vsite-5b3f0c1e', token };
/** The parts of a MIME message, decoded. */
const partsOf = (message: string): string[] =>
  message
    .split('--==vsite==')
    .slice(1, -1)
    .map((part) => Buffer.from(part.split('\n\n')[1] ?? '', 'base64').toString());

describe('the seed disk of a machine', () => {
  it('is readable by nobody else, and there is one for each machine', { skip: noFat }, async () => {
    await using scope = new Scope();
    const workspace = new Workspace(scratch(scope));
    const part = join(scratch(scope), 'part');
    writeFileSync(part, '');
    const prepare = async (name: string): Promise<string> => {
      const parts = { kernel: part, initrd: part };
      const { seed } = await workspace.prepare(system(), parts, { ...context, name });
      return seed ?? '';
    };
    const seed = await prepare(context.name);
    assert.equal(statSync(seed).mode & 0o777, 0o600);
    const read = async (name: string): Promise<string> =>
      (await run('mcopy', ['-n', '-i', seed, `::/${name}`, '-'])).stdout;
    const meta = parse(await read('meta-data')) as Record<string, unknown>;
    assert.deepEqual(meta, { 'instance-id': context.name, 'local-hostname': context.hostName });
    assert.ok((await read('user-data')).includes('multipart/mixed'));
    assert.match((await run('mlabel', ['-s', '-i', seed, '::'])).stdout, /CIDATA/);
    assert.equal(await prepare(context.name), seed);
    const { id } = system();
    assert.notEqual(await prepare(`${id}.2`), seed);
  });

  it('tells cloud-init keys, network and what the owner brings, behind ours', () => {
    const userData = '#cloud-config\n# --==vsite==--\npackages: [sl]\n';
    const files = seedFiles(system(), { ...context, own: { sshKeys: [key], userData } });
    const meta = parse(files['meta-data']) as Record<string, unknown>;
    assert.deepEqual(meta['public-keys'], [key]);
    assert.deepEqual(parse(files['network-config']), { version: 2, ethernets: {} });
    const [hook = '', own] = partsOf(files['user-data']);
    assert.equal(own, userData);
    assert.ok(hook.startsWith('#!/bin/sh\n') && hook.includes(token));
    const tcp = seedFiles(
      system({
        tsi: { ...system().image.metadata.tsi, transport: 'tcp' },
        contextualisation: { nocloud: true },
      }),
      context,
    );
    assert.match(tcp['network-config'], /dhcp4: true/);
    assert.doesNotMatch(partsOf(tcp['user-data'])[0] ?? '', /tsi\.properties/);
  });

  it('has a script that lays the token down once for each machine', async () => {
    await using scope = new Scope();
    const root = scratch(scope);
    for (const folder of ['etc', 'run', 'var/lib/systemd', 'var/lib/dbus'])
      mkdirSync(join(root, folder), { recursive: true });
    const jobsDirectory = "/home/it's $(touch /etc/oops)/jobs";
    const tsi = { ...system().image.metadata.tsi, jobsDirectory };
    const [all = ''] = partsOf(seedFiles(system({ tsi }), context)['user-data']);
    await run('sh', ['-n', '-c', all]);
    const plain = { contextualisation: { nocloud: true } };
    const script = (name: string): string =>
      below(root, partsOf(seedFiles(system(plain), { ...context, name })['user-data'])[0] ?? '');
    const boot = async (name: string): Promise<string> => {
      await run('sh', ['-c', `${script(name)}\ncat ${root}/etc/vsite/enrolment 2>/dev/null; true`]);
      const { stdout } = await run('sh', ['-c', `cat ${root}/etc/vsite/enrolment || true`]);
      return stdout.trim();
    };
    const former = 'f'.repeat(32);
    const files = ['etc/machine-id', 'var/lib/dbus/machine-id'].map((path) => join(root, path));
    for (const file of files) writeFileSync(file, `${former}\n`);
    const ids = () => files.map((file) => readFileSync(file, 'utf8'));
    const store = join(root, 'var/lib/systemd/random-seed');
    writeFileSync(store, 'of the former');
    assert.equal(await boot(context.name), token);
    const [id, copy] = ids();
    assert.match(id ?? '', /^[0-9a-f]{32}\n$/);
    assert.ok(id === copy && id !== `${former}\n` && !existsSync(store), 'it is another machine');
    assert.equal(statSync(join(root, 'etc/vsite/enrolment')).mode & 0o777, 0o600);
    await run('rm', [join(root, 'etc/vsite/enrolment')]); // as the agent does when it was used
    assert.equal(await boot(context.name), '');
    assert.deepEqual(ids(), [id, id]);
    assert.equal(await boot(`${system().id}.2`), token);
  });

  it('tells programs of the parameters, and of volumes where no agent of ours mounts them', async () => {
    await using scope = new Scope();
    const root = scratch(scope);
    const variables = { VSITE_PARAM_a: "it's $HOME", VSITE_PARAM_b: '%s\\n' };
    const volumes = [{ name: 'data', sizeMiB: 1, path: '/data' }];
    const plain = system({ contextualisation: { nocloud: true } });
    const files = seedFiles(plain, { ...context, variables, volumes });
    const [hook = '', config = ''] = partsOf(files['user-data']);
    for (const folder of ['etc', 'run']) mkdirSync(join(root, folder));
    const script = below(root, hook);
    const shown = '. ./run/vsite-parameters; echo "$VSITE_PARAM_a"; printf "%s" "$VSITE_PARAM_b"';
    const { stdout } = await run('sh', ['-c', `${script}\n${shown}`], { cwd: root });
    assert.equal(stdout, "it's $HOME\n%s\\n");
    const device = '/dev/disk/by-id/virtio-data';
    assert.deepEqual(parse(config), {
      fs_setup: [{ device, filesystem: 'ext4', overwrite: false }],
      mounts: [[device, '/data', 'auto', 'nosuid,nodev,nofail', '0', '0']],
      runcmd: [['chown', 'grid:', '/data']],
    });
  });

  it('makes no file system on a volume that somebody has had', () => {
    const volumes = [
      { name: 'data', sizeMiB: 1, path: '/data' },
      { name: 'old', sizeMiB: 1, path: '/mnt/old', wasUsed: true },
    ] as const;
    const configOf = (generation?: number) => {
      const machine = { ...system(), ...(generation !== undefined && { generation }) };
      const { 'user-data': text } = seedFiles(machine, { ...context, volumes });
      return parse(partsOf(text)[1] ?? '') as {
        fs_setup?: { device: string }[];
        mounts: unknown[];
      };
    };
    const both = configOf();
    assert.deepEqual(both.fs_setup?.map(({ device }) => device), ['/dev/disk/by-id/virtio-data']); // prettier-ignore
    assert.equal(both.mounts.length, 2);
    const next = configOf(2);
    assert.deepEqual([next.fs_setup, next.mounts.length], [undefined, 2]);
  });

  it('and that of the agent are read-only disks of the domain', () => {
    const paths = { console: '/c', kernel: '/k', initrd: '/i', agentSocket: '/s' };
    const xml = domainXml(system(), { ...paths, seed: '/seed', agentDisk: '/agent' }, 'x');
    assert.match(xml, /<source file="\/seed"\/>(?:(?!<disk).)*<readonly\/>/s);
    assert.match(xml, /<source file="\/agent"\/>(?:(?!<disk).)*<readonly\/>/s);
    assert.doesNotMatch(domainXml(system(), paths, 'x'), /<disk/);
  });
});

describe('what an owner gives for the set-up of a machine', () => {
  const wrong: readonly (readonly [object, RegExp])[] = [
    [{ sshKeys: 'x' }, /^parameters\.sshKeys/],
    [{ sshKeys: [] }, /^parameters\.sshKeys/],
    [{ sshKeys: [`${key}\nssh-rsa AAAA`] }, /^parameters\.sshKeys\.0/],
    [{ sshKeys: [`command="x" ${key}`] }, /^parameters\.sshKeys\.0/],
    [{ sshKeys: [key.replace('ssh-ed25519', 'ssh-rsa')] }, /^parameters\.sshKeys\.0/],
    [{ userData: 'echo' }, /^parameters\.userData/],
    [{ userData: `#!/bin/sh\n${'x'.repeat(65_536)}` }, /^parameters\.userData/],
    [{ userData: '#!\0' }, /^parameters\.userData/],
  ];
  for (const [given, message] of wrong)
    it(`is refused: ${JSON.stringify(given).slice(0, 60)}`, () => {
      assert.throws(() => readOwnContext('parameters', given), { code: 'BAD_REQUEST', message });
    });

  it('is taken by images that say so only, and an agent is put in where the site has it', () => {
    const own = readOwnContext('parameters', { sshKeys: [key], userData: '#!/bin/sh\n' });
    const { metadata } = system().image;
    requireContext(metadata, own, true);
    assert.throws(() => requireContext(metadata, own, false), { message: /agentDisk/ });
    const none = anImageMetadata();
    requireContext(none, undefined, false);
    for (const [given, message] of [
      [{ sshKeys: [key] }, /sshKeys/],
      [{ userData: '#!' }, /userData/],
    ] as const)
      assert.throws(() => requireContext(none, given, true), { code: 'BAD_REQUEST', message });
  });
});
