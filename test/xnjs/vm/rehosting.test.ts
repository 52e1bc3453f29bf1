import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { without } from '#xnjs/job/without.js';
import { HostPlacement } from '#xnjs/vm/hosts/host-placement.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { refugeFrom, rehost } from '#xnjs/vm/hosts/rehosting.js';
import { fingerprint } from '#xnjs/vm/parking.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { aHost, equal } from './fake-host.js';
import { aTargetSystem } from './samples.js';

describe('the only host that is left of several', () => {
  it('takes what the other had parked in files, and what was off there', async () => {
    const { hypervisor } = aHost(true);
    const about = { drivers: ['qemu'], labels: [], drain: false } as const;
    const local = { name: 'local', hypervisor, ...about, capacity: {}, reserved: {} };
    const hosts = new Hosts({ hosts: [local], log: silentLog });
    const places = new HostPlacement({ hosts, records: () => [] });
    const saved: TargetSystem[] = [];
    const save = (record: TargetSystem) => Promise.resolve(void saved.push(record));
    const parked = { state: 'SUSPENDED', parkedOn: fingerprint(equal) } as const;
    const north = aTargetSystem({ host: 'north', ...parked });
    await rehost(north, { hosts, places, save });
    assert.deepEqual(
      saved.map(({ id, host }) => [id, host]),
      [[north.id, 'local']],
    );
    const unlike = { ...north, parkedOn: fingerprint('another processor') };
    await assert.rejects(rehost(unlike, { hosts, places, save }), {
      code: 'HYPERVISOR_UNAVAILABLE',
    });
    const off = without({ ...north, state: 'FAILED' as const }, 'parkedOn');
    for (const snapshot of [{ isDiskOnly: true as const }, { host: fingerprint(equal) }]) {
      const { host, release } = await refugeFrom(off, snapshot, { hosts, places });
      assert.equal(host, 'local');
      release();
    }
  });
});
