import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { createLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import type { SpareStore } from '#xnjs/vm/tiers/spare.js';
import { aDaemon, withoutLibvirtd } from '../kernel/libvirt/daemon.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { bootDisk } from './boot-sectors.js';
import { startAgents, startMachines } from './machine-rig.js';
import { Proxy } from './proxy.js';

const options = { skip: withoutLibvirtd, timeout: 180_000 };
it(
  'a spare whose agent falls silent for good: another takes its place within 30 s',
  options,
  async () => {
    await using scope = new Scope();
    const daemon = scope.use(await aDaemon());
    const state = join(daemon.stateDir, 's');
    mkdirSync(state);
    await startAgents(scope, join(state, 'agents.sock'));
    const disk = bootDisk(join(state, 'disk.qcow2'), 'nothing');
    const link = join(state, 'link.sock');
    const proxy = scope.use(await Proxy.open(link, { path: join(state, 'agents.sock') }));
    const log: string[] = [];
    let store: SpareStore | undefined;
    const systems = await startMachines(scope, {
      database: await openTables(scope, `sqlite:${join(state, 'db.sqlite')}`),
      ...{ uri: daemon.options('qemu').uri, directory: join(state, 'files') },
      log: createLog({ stream: { write: (line: string) => log.push(line) } }),
      part: () => disk,
      socketOf: () => link,
      stores: (plain) => {
        store = plain.spares;
        return plain;
      },
      spares: { demo: 1 },
    });
    const create = () =>
      systems.create({ ownerDn: 'CN=User', image: 'demo', parameters: {}, tags: [] });
    const told = (times: number) =>
      until(
        `a spare is ready, ${times} times`,
        () => log.filter((line) => line.includes('a spare machine is ready')).length === times,
        60_000,
      );
    await told(1);
    const [former] = await store!.all();
    proxy.cut({ forGood: true });
    const isGone = async () => (await store!.all()).every(({ id }) => id !== former!.id);
    await until('it is removed', isGone, 60_000);
    proxy.heal();
    await told(2);
    const { id, start } = await create();
    assert.equal(start?.tier, 'spare');
    assert.notEqual(id, former!.id);
    await systems.destroy(id);
  },
);
