import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ImageMetadata, type IdbApplication } from '#imagerepo/contract.js';
import { emptySiteIdb, findResource, mergeIdb, type Idb } from '#xnjs/idb/idb.js';
import type { SiteIdb } from '#xnjs/idb/site-idb.js';
import { idbSubject, type TargetSystem } from '#xnjs/vm/target-system.js';
import { aTargetSystem, anImageMetadata } from '../vm/samples.js';

const app = (Name: string, Version: string, Executable: string): IdbApplication => ({
  Name,
  Version,
  Executable,
});
const gib = 1024 ** 3;
const limits = { cpus: 4, memoryBytes: 2 * gib };
const site = (changes: Partial<SiteIdb>): SiteIdb => ({ ...emptySiteIdb, ...changes });
const range = (Min: number, Max: number, Default?: number) =>
  ({ Type: 'INT', Min, Max, ...(Default !== undefined && { Default }) }) as const;
const batch = {
  name: 'batch',
  resources: {
    Runtime: range(60, 90 * 86_400, 3_600),
    Nodes: range(1, 16, 2),
    CPUsPerNode: range(8, 64, 16),
    MemoryPerNode: range(gib, 64 * gib),
    Licence: { Type: 'CHOICE', AllowedValues: ['a'] } as const,
  },
};
const bounds = ({ partitions }: Idb, name: string) => {
  const resource = findResource(partitions[0]!, name);
  return resource && 'Min' in resource ? [resource.Min, resource.Max, resource.Default] : resource;
};

describe('the IDB of a target system', () => {
  it("has the image's applications and the site's, and the image's where both have one", () => {
    const { applications } = mergeIdb(
      { applications: [app('A', '1', 'image'), app('B', '1', 'image')], limits },
      site({ applications: [app('A', '1', 'site'), app('A', '2', 'site')] }),
      [app('B', '1', 'user')],
    );
    assert.deepEqual(
      applications
        .map(({ Name, Version, Executable }) => `${Name} ${Version} ${Executable}`)
        .sort(),
      ['A 1 image', 'A 2 site', 'B 1 user'],
    );
  });

  it('is one partition of what the machine has, when nothing else is said', () => {
    const idb = mergeIdb({ applications: [], limits });
    assert.deepEqual(
      idb.partitions.map(({ name }) => name),
      ['vm'],
    );
    assert.deepEqual(bounds(idb, 'TotalCPUs'), [1, 4, undefined]);
    assert.deepEqual(bounds(idb, 'Memory'), [1024 ** 2, 2 * gib, undefined]);
    assert.equal(findResource(idb.partitions[0]!, 'GPUsPerNode'), undefined);
  });

  it("has the site's partitions, cut to the machine, defaults too", () => {
    const idb = mergeIdb({ applications: [], limits }, site({ partitions: [batch] }));
    assert.deepEqual(bounds(idb, 'Runtime'), [60, 90 * 86_400, 3_600]);
    assert.deepEqual(bounds(idb, 'Nodes'), [1, 1, 1]);
    assert.deepEqual(bounds(idb, 'CPUsPerNode'), [4, 4, 4]);
    assert.deepEqual(bounds(idb, 'TotalCPUs'), [1, 4, undefined]);
    assert.deepEqual(bounds(idb, 'MemoryPerNode'), [gib, 2 * gib, undefined]);
    assert.equal(findResource(idb.partitions[0]!, 'Licence')?.Type, 'CHOICE');
  });

  it("has the image's partitions rather than the site's, and its resources in each", () => {
    const metadata = anImageMetadata({
      partitions: {
        small: { Resources: { Nodes: '1-2' } },
        big: { IsDefaultPartition: true, Resources: { Nodes: '1-8', CPUsPerNode: '1-99' } },
      },
      resources: { Licence: { Type: 'CHOICE', AllowedValues: ['b'] }, GPUsPerNode: '0-2' },
      info: { docs: 'here', admin: 'the image' },
    });
    const image = { ...aTargetSystem().image, metadata };
    const idb = mergeIdb(
      idbSubject(aTargetSystem({ image })),
      site({ partitions: [batch], info: { admin: 'the site' } }),
    );
    assert.deepEqual(
      idb.partitions.map(({ name }) => name),
      ['big', 'small'],
    );
    assert.deepEqual(bounds(idb, 'Nodes'), [1, 8, undefined]);
    assert.deepEqual(bounds(idb, 'CPUsPerNode'), [1, 2, undefined]);
    assert.deepEqual(bounds(idb, 'GPUsPerNode'), [0, 2, undefined]);
    assert.deepEqual(idb.info, { docs: 'here', admin: 'the site' });
  });

  it('has job arrays unless its TSI says that it runs none, whatever is said of them elsewhere', () => {
    const arrays = (record: Partial<TargetSystem>) => {
      const metadata = anImageMetadata({ resources: { ArraySize: '1-50' } });
      const image = { ...aTargetSystem().image, metadata };
      const partition = { ...batch, resources: { ...batch.resources, ArrayLimit: range(1, 5) } };
      const idb = mergeIdb(
        idbSubject(aTargetSystem({ image, ...record })),
        site({ partitions: [partition] }),
      );
      return [bounds(idb, 'ArraySize'), bounds(idb, 'ArrayLimit')];
    };
    const offered = [
      [1, 50, undefined],
      [1, 5, undefined],
    ];
    assert.deepEqual(arrays({}), offered); // it has not said anything yet
    assert.deepEqual(arrays({ arrays: true }), offered);
    assert.deepEqual(arrays({ arrays: false }), [undefined, undefined]);
  });

  it('has the queues of its batch system, where nobody describes any', () => {
    const subject = {
      applications: [],
      limits,
      queues: { short: { Nodes: 0, isDefault: false }, long: { Nodes: 0, isDefault: false } },
    };
    const idb = mergeIdb(subject);
    assert.deepEqual(
      idb.partitions.map(({ name }) => name),
      ['short', 'long'],
    );
    assert.deepEqual(bounds(idb, 'Nodes'), [1, 65_536, undefined]);
  });

  const names = ({ partitions }: Idb): string[] => partitions.map(({ name }) => name);
  const queue = (more: object = {}) => ({ Nodes: 4, isDefault: false, ...more });
  const told = (queues: Record<string, ReturnType<typeof queue>>, more: object = {}) => ({
    applications: [],
    limits,
    queues,
    ...more,
  });

  it('offers of the described partitions those that the batch system has', () => {
    const both = site({ partitions: [batch, { name: 'night', resources: {} }] });
    assert.deepEqual(names(mergeIdb(told({ night: queue(), other: queue() }), both)), ['night']);
    assert.deepEqual(names(mergeIdb(told({ short: queue(), long: queue() }), both)), [
      'short',
      'long',
    ]);
    assert.deepEqual(names(mergeIdb(told({}), both)), ['batch', 'night']);
  });

  it("takes the batch system's default where no partition is marked as the default", () => {
    const queues = { a: queue(), b: queue({ isDefault: true }), c: queue() };
    assert.deepEqual(names(mergeIdb(told(queues))), ['b', 'a', 'c']);
    const parts = ['a', 'b', 'c'].map((name) => ({ name, resources: {} }));
    assert.deepEqual(names(mergeIdb(told(queues), site({ partitions: parts }))), ['b', 'a', 'c']);
    const fragment = anImageMetadata({
      partitions: { a: { Resources: {} }, c: { Resources: {}, IsDefaultPartition: true } },
    });
    assert.deepEqual(names(mergeIdb(told(queues, { fragment }))), ['c', 'a']);
  });

  it('bounds what is said of a partition by what its queue allows', () => {
    const allows = { Nodes: 3, Runtime: 1_800, CPUsPerNode: 32, MemoryPerNode: 8 * gib };
    const idb = mergeIdb(told({ batch: queue(allows) }), site({ partitions: [batch] }));
    assert.deepEqual(bounds(idb, 'Runtime'), [60, 1_800, 1_800]);
    assert.deepEqual(bounds(idb, 'Nodes'), [1, 3, 2]);
    assert.deepEqual(bounds(idb, 'CPUsPerNode'), [8, 32, 16]);
    assert.deepEqual(bounds(idb, 'TotalCPUs'), [1, 96, undefined]);
    assert.deepEqual(bounds(idb, 'Memory'), [gib, 8 * gib, undefined]);
    const endless = mergeIdb(told({ batch: queue() }), site({ partitions: [batch] }));
    assert.deepEqual(bounds(endless, 'Runtime'), [60, 90 * 86_400, 3_600]);
  });
});

describe("an image's fragment", () => {
  const input = {
    ...anImageMetadata(),
    applications: [{ ...app('A', '1', 'a'), Resources: { Nodes: 1 }, PreCommand: ['x', 'y'] }],
    partitions: { q: { Resources: { Memory: '1G-2G:1G' } } },
  };

  it('means the same when it is stored and read again', () => {
    const once = ImageMetadata.parse(input);
    assert.deepEqual(ImageMetadata.parse(JSON.parse(JSON.stringify(once))), once);
  });

  it('that is wrong is refused by its field', () => {
    const { error } = ImageMetadata.safeParse({
      ...input,
      partitions: { q: { Resources: { Memory: '2G-1G' } } },
    });
    assert.deepEqual(error?.issues[0]?.path, ['partitions', 'q', 'Resources', 'Memory']);
  });
});
