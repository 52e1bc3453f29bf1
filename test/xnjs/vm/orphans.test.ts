import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { markXml, readMark } from '#xnjs/vm/domain-mark.js';
import { without } from '#xnjs/job/without.js';
import type { OwnDomain } from '#xnjs/vm/hypervisor.js';
import { Orphans } from '#xnjs/vm/orphans.js';
import { aTargetSystem } from './samples.js';

const installation = '11111111-2222-4333-8444-555555555555';
const system = aTargetSystem({ terminationMs: 5, acl: ['read:ROLE:user'] });
const domain = {
  id: system.id,
  state: 'running',
  reason: '',
  mark: readMark(markXml(system, installation, 7))!,
} as const satisfies OwnDomain;

/** A fake host and database; what is done is written down. */
function watched({
  removed = false,
  known = false,
  acts = true,
  outlived = false,
  lost = false,
} = {}) {
  let nowMs = 0;
  const done: string[] = [];
  const orphans = new Orphans({
    hosts: {
      of: () => ({ remove: (_, id) => Promise.resolve(void done.push(`remove ${id}`)) }),
    },
    store: { wasRemoved: () => Promise.resolve(removed) },
    files: {
      removeThere: ({ id, host }) => Promise.resolve(void done.push(`volumes of ${id} at ${host}`)),
    },
    workspace: {
      remove: (id) => Promise.resolve(void done.push(`files of ${id}`)),
      list: () => Promise.resolve([system.id]),
    },
    isKnown: () => known,
    isOutlived: () => outlived,
    mayAdopt: () => !lost,
    isAt: (_, { host }) => known && host === 'local',
    adopt: ({ id, ownerDn }, { host }) =>
      Promise.resolve(void done.push(`adopt ${id} of ${ownerDn} at ${host}`)),
    graceMs: 60_000,
    require: () =>
      acts ? Promise.resolve() : Promise.reject(new GridError('SITE_UNAVAILABLE', 'not ours')),
    clock: { now: () => nowMs } as Clock, // nothing sleeps here
    log: silentLog,
  });
  const see = async (
    domains: readonly OwnDomain[],
    afterMs: number,
    host = 'local',
  ): Promise<string[]> => {
    nowMs += afterMs;
    await orphans.judge({ host, driver: 'qemu' }, domains);
    return done;
  };
  return { orphans, see, done };
}

describe('domains of ours that no target system owns', () => {
  it('become target systems again when the database has lost them, after a time of grace', async () => {
    const { see } = watched();
    assert.deepEqual(await see([domain], 0), []);
    assert.deepEqual(await see([domain], 59_999), []);
    assert.deepEqual(await see([domain], 1), [`adopt ${system.id} of ${system.ownerDn} at local`]);
  });

  it('are removed when their target system was, after a time of grace', async () => {
    const { see } = watched({ removed: true });
    await see([domain], 0);
    const gone = [
      `remove ${system.id}`,
      `volumes of ${system.id} at local`,
      `files of ${system.id}`,
    ];
    assert.deepEqual(await see([domain], 60_000), gone);
  });

  it('are removed when another machine has taken their place, whose files stay', async () => {
    const { see } = watched({ known: true, outlived: true });
    await see([domain], 0, 'north');
    const done = await see([domain], 60_000, 'north');
    assert.deepEqual(done, [`remove ${system.id}`, `volumes of ${system.id} at north`]);
  });

  it('are not adopted on a host that was declared lost', async () => {
    const { see, orphans } = watched({ lost: true });
    await see([domain], 0, 'north');
    assert.deepEqual(await see([domain], 60_000, 'north'), []);
    assert.deepEqual(orphans.left, [`north qemu ${domain.id}`]);
  });

  it('begin their time of grace anew when they were not there meanwhile', async () => {
    const { see } = watched({ removed: true });
    await see([domain], 0);
    await see([], 30_000);
    assert.deepEqual(await see([domain], 30_000), []);
  });

  it('are left alone, and counted, when nothing is known of them', async () => {
    const { see, orphans } = watched();
    const bare = without(domain.mark, 'record');
    await see([{ ...domain, mark: bare }], 0);
    assert.deepEqual(await see([{ ...domain, mark: bare }], 60_000), []);
    assert.equal(orphans.left.length, 1);
  });

  it('are left alone, and counted, when another host has the machine by its record', async () => {
    const { see, orphans } = watched({ known: true, removed: true });
    assert.deepEqual(await see([domain], 0), []);
    await see([domain], 0, 'north');
    assert.deepEqual(await see([domain], 60_000, 'north'), []);
    assert.deepEqual(orphans.left, [`north qemu ${domain.id}`]);
    await see([], 1, 'local');
    assert.equal(orphans.left.length, 1, 'what one host has says nothing of another');
  });

  it('are adopted by the host that has them', async () => {
    const { see } = watched();
    await see([domain], 0, 'north');
    const done = await see([domain], 60_000, 'north');
    assert.deepEqual(done, [`adopt ${system.id} of ${system.ownerDn} at north`]);
  });

  it('are left alone when they carry the record of another', async () => {
    const { see } = watched();
    const stolen = { ...domain, id: `6${domain.id.slice(1)}` };
    await see([stolen], 0);
    assert.deepEqual(await see([stolen], 60_000), []);
  });

  it('are no business of a server that another has taken over from', async () => {
    const { see } = watched({ removed: true, acts: false });
    await see([domain], 0);
    assert.deepEqual(await see([domain], 60_000), []);
  });

  it('leave no files behind, and those of others are not touched', async () => {
    const { orphans, done } = watched({ removed: true });
    await orphans.sweep(new Set([domain.id]));
    assert.deepEqual(done, []);
    await orphans.sweep(new Set());
    assert.deepEqual(done, [`files of ${system.id}`]);
    const unknown = watched();
    await unknown.orphans.sweep(new Set());
    assert.deepEqual(unknown.done, []);
  });
});

describe('the mark of a domain', () => {
  it('says whose it is, and what its target system was', () => {
    const { record, ...mark } = domain.mark;
    assert.deepEqual(mark, { installation, owner: system.ownerDn, epoch: 7, generation: 1 });
    const { image, parameters, ...rest } = record!;
    assert.deepEqual(image.metadata, system.image.metadata);
    assert.deepEqual(parameters, system.parameters);
    assert.deepEqual([rest.terminationMs, rest.acl], [5, ['read:ROLE:user']]);
  });

  it('is not made by what a user calls his things', () => {
    const other = '99999999-2222-4333-8444-555555555555';
    const nasty = aTargetSystem({
      ownerDn: `CN=x" installation="${other}\u0000\uFFFF,C=EU`,
      tags: [`' installation='${other}'`, '</record></domain><domain>', '\uD800\uFFFF'],
    });
    const mark = readMark(markXml(nasty, installation, 1))!;
    assert.equal(mark.installation, installation);
    assert.equal(mark.record!.ownerDn, nasty.ownerDn);
    assert.deepEqual(mark.record!.tags.slice(0, 2), nasty.tags.slice(0, 2));
  });

  it('of an earlier version has an installation only; other metadata is none', () => {
    const old = `<vsite:domain xmlns:vsite="urn:vsite:domain:1" installation="${installation}"/>`;
    assert.deepEqual(readMark(old), { installation, owner: '', epoch: 0, generation: 1 });
    for (const text of ['<other/>', 'nonsense', '']) assert.equal(readMark(text), undefined);
  });
});
