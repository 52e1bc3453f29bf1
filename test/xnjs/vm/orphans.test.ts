import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { toXml } from '#kernel/xml/build.js';
import { markElement, markXml, readMark, type DomainMark } from '#xnjs/vm/domain-mark.js';
import { without } from '#xnjs/job/without.js';
import type { OwnDomain } from '#xnjs/vm/hypervisor.js';
import { Orphans } from '#xnjs/vm/orphans.js';
import { readParkedMark } from '#xnjs/vm/parked-memory.js';
import { scratch } from '../job/rig.js';
import { aTargetSystem } from './samples.js';

const installation = '11111111-2222-4333-8444-555555555555';
const system = aTargetSystem({ terminationMs: 5, acl: ['read:ROLE:user'] });
const domain = {
  id: system.id,
  state: 'running',
  reason: '',
  mark: readMark(markXml(system, installation, 7))!,
} as const satisfies OwnDomain;

type Situation = {
  readonly removed?: boolean;
  readonly known?: boolean;
  readonly acts?: boolean;
  /** Its record is there by the time that this server may act. */
  readonly comes?: boolean;
  readonly outlived?: boolean;
  /** Its host was declared lost. */
  readonly lost?: boolean;
  readonly absence?: 'lost' | 'removed' | 'unclear';
  /** The hypervisor has its memory; a file of ours has, with this mark. */
  readonly isSaved?: boolean;
  readonly parked?: DomainMark;
};

/** A fake host and database; what is done is written down. */
function watched(situation: Situation = {}) {
  const { removed = false, known = false, acts = true, absence = 'lost' } = situation;
  const { outlived = false, lost = false, isSaved = false, parked } = situation;
  let nowMs = 0;
  let hasCome = false;
  const done: string[] = [];
  const orphans = new Orphans({
    hosts: {
      of: () => ({
        remove: (_, id) => Promise.resolve(void done.push(`remove ${id}`)),
        find: (_, id) => Promise.resolve({ id, state: 'stopped', reason: '', isSaved }),
        describe: () => Promise.resolve('its libvirt'),
      }),
    },
    store: {
      wasRemoved: () => Promise.resolve(removed),
      absenceOf: () => Promise.resolve(absence),
    },
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
    isAt: (_, { host }) => hasCome || (known && host === 'local'),
    adopt: ({ id, ownerDn }, { host, isParked, parkedOn }) => {
      const how = parkedOn !== undefined ? ', in a file' : isParked ? ', saved' : '';
      return Promise.resolve(void done.push(`adopt ${id} of ${ownerDn} at ${host}${how}`));
    },
    markOf: () => Promise.resolve(parked),
    installationId: installation,
    graceMs: 60_000,
    require: () => {
      hasCome = situation.comes === true;
      return acts
        ? Promise.resolve()
        : Promise.reject(new GridError('SITE_UNAVAILABLE', 'not ours'));
    },
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
  const sweep = async (afterMs: number): Promise<void> => {
    nowMs += afterMs;
    await orphans.sweep(new Set());
  };
  return { orphans, see, sweep, done };
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

  it('stay where their host was taken back in the meantime', async () => {
    const { see } = watched({ known: true, outlived: true, comes: true });
    await see([domain], 0, 'north');
    assert.deepEqual(await see([domain], 60_000, 'north'), []);
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

  it('stay parked when they are found so', async () => {
    const stopped = { ...domain, state: 'stopped' } as const;
    for (const isSaved of [true, false]) {
      const { see } = watched({ isSaved });
      await see([stopped], 0);
      const [told, ...more] = await see([stopped], 60_000);
      const how = isSaved ? ', saved' : '';
      assert.deepEqual(
        [told, more.length],
        [`adopt ${system.id} of ${system.ownerDn} at local${how}`, 0],
      );
    }
  });

  it('are removed after a time of grace when the note that theirs was removed has been dropped', async () => {
    const { see } = watched({ absence: 'removed' });
    assert.deepEqual(await see([domain], 0), []);
    assert.deepEqual(await see([domain], 60_000), [
      `remove ${system.id}`,
      `volumes of ${system.id} at local`,
      `files of ${system.id}`,
    ]);
  });

  it('are nobody’s, and counted, where a note may have been dropped or never made', async () => {
    const { see, orphans } = watched({ absence: 'unclear' });
    await see([domain], 0);
    assert.deepEqual(await see([domain], 60_000), []);
    assert.equal(orphans.left.length, 1);
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
    for (const afterMs of [0, 60_000]) {
      await unknown.sweep(afterMs);
      assert.deepEqual(unknown.done, []);
      assert.equal(unknown.orphans.left.length, afterMs === 0 ? 0 : 1, 'told of');
    }
  });
});

describe('files of machines that no host has, and no target system owns', () => {
  const parked = domain.mark;
  const settled = async (situation: Situation): Promise<readonly [readonly string[], number]> => {
    const { sweep, done, orphans } = watched(situation);
    await sweep(0);
    await sweep(59_999);
    assert.deepEqual([done, orphans.left], [[], []], 'within the time of grace');
    await sweep(1);
    return [done, orphans.left.length];
  };

  it('become a parked target system again when one is parked in them', async () => {
    const adoption = `adopt ${system.id} of ${system.ownerDn} at local, in a file`;
    assert.deepEqual(await settled({ parked }), [[adoption], 0]);
  });

  it('are removed when that was removed, however long ago', async () => {
    assert.deepEqual(await settled({ parked, absence: 'removed' }), [[`files of ${system.id}`], 0]);
  });

  it('are told of, and left alone, when they say nothing that can be believed', async () => {
    const strange = { ...parked, installation: '99999999-2222-4333-8444-555555555555' };
    const another = { ...parked, record: { ...parked.record!, id: `6${system.id.slice(1)}` } };
    for (const situation of [
      {},
      { parked: strange },
      { parked: another },
      { parked, absence: 'unclear' },
    ] as const)
      assert.deepEqual(await settled(situation), [[], 1]);
  });

  it('are no business of a server that another has taken over from', async () => {
    assert.deepEqual(await settled({ parked, acts: false }), [[], 0]);
  });
});

describe('the memory of a parked machine', () => {
  const written = async (magic: string, text: string, length = text.length + 1) => {
    await using scope = new Scope();
    const path = join(scratch(scope), 'parked.save');
    const header = Buffer.alloc(92);
    header.write(magic);
    header.writeUInt32LE(2, 16);
    header.writeUInt32LE(length, 20);
    await writeFile(path, Buffer.concat([header, Buffer.from(`${text}\0and memory`)]));
    return await readParkedMark(path);
  };
  const definition = `<domain><name>x</name><metadata><o:b xmlns:o="urn:o"/>${toXml(markElement(system, installation, 7))}</metadata></domain>`;

  it('says whose it is', async () => {
    assert.deepEqual(await written('LibvirtQemudSave', definition), domain.mark);
  });

  it('says nothing when it is not complete, of something else, or far too long', async () => {
    assert.equal(await written('LibvirtQemudPart', definition), undefined);
    assert.equal(await written('LibvirtQemudSave', '<domain/>'), undefined);
    assert.equal(await written('LibvirtQemudSave', definition, 0x7fffffff), undefined);
    assert.equal(await readParkedMark('/nowhere/parked.save'), undefined);
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
