import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { TsiError } from '#tsi/protocol/error.js';
import type { Reservation } from '#xnjs/reservation/reservation.js';
import { Reservations } from '#xnjs/reservation/reservations.js';
import type { Target } from '#xnjs/target.js';
import { until } from '../job/rig.js';

const aReservation = (terminationMs: number): Reservation => ({
  ...{ id: 'r1', ownerDn: 'CN=Alice', targetId: 't1', tags: [], resources: {} },
  ...{ state: 'MADE', reference: 'maintenance_7', createdMs: 0, terminationMs },
  request: { wallTime: 60, start: '2026-11-25T12:00:00+0000' },
});

/** With a batch system, a fake, that knows no such reservation any more. */
function rigWith(record: Reservation) {
  const stored = new Map([[record.id, record]]);
  let asked = 0;
  const tsi = {
    cancelReservation: () => {
      asked++;
      return Promise.reject(new TsiError('TSI_FAILED', 'Invalid reservation name'));
    },
  };
  // what is asked for here is all there is
  const target = { id: 't1', identity: { login: 'a', groups: 'NONE' }, tsi: () => tsi };
  const reservations = new Reservations({
    store: {
      all: () => Promise.resolve([...stored.values()]),
      save: (each) => Promise.resolve(void stored.set(each.id, each)),
      remove: (id) => Promise.resolve(void stored.delete(id)),
    },
    targets: { find: () => target as unknown as Target },
    ...{ clock: systemClock, log: silentLog },
  });
  return { stored, reservations, asked: () => asked };
}

describe('reservations that the batch system will not cancel', { timeout: 30_000 }, () => {
  it('are forgotten once they are over: it has done so, too', async () => {
    const { stored, ...rig } = rigWith(aReservation(Date.now() - 1_000));
    await using reservations = rig.reservations;
    await reservations.start();
    await until('it is forgotten', () => stored.size === 0, 2_000);
  });

  it('stay while they might still hold something', async () => {
    const { stored, asked, ...rig } = rigWith(aReservation(Date.now() + 3_600_000));
    await using reservations = rig.reservations;
    await reservations.start();
    await reservations.cancel('r1');
    assert.equal(asked(), 1);
    assert.equal(stored.get('r1')?.state, 'CANCELLING');
  });
});
