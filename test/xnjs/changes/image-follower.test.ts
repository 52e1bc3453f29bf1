import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ImageChanges, imageRoutes } from '#imagerepo/contract.js';
import { systemClock } from '#kernel/clock.js';
import { createHttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import type { Database } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { ImageFollower } from '#xnjs/changes/image-follower.js';
import { Service } from '../../imagerepo/service.js';
import { until } from '../job/rig.js';
import { databases, openTables } from '../persistence/databases.js';

/** The real image repository, and our log of what it tells. */
describe('changes of images', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let service: Service;
  let database: Database;
  let changes: ChangeLog;
  before(async () => {
    service = await Service.start();
    scope.defer(() => service.scope.close());
    database = await openTables(scope, await databases[0][1](scope));
    changes = new ChangeLog(database, 'changes');
  });
  after(() => scope.close());

  function follow(): ImageFollower {
    const { socketPath } = service;
    const client = scope.use(createHttpClient({ baseUrl: 'http://images', socketPath }));
    const headers = (): Record<string, string> => ({ 'x-test-user': 'server/admin' });
    const common = { onLogged: () => undefined, clock: systemClock, log: silentLog };
    return new ImageFollower({ client, headers, database, changes, ...common });
  }
  const heard = async (id: string): Promise<unknown[]> =>
    (await changes.read(0, 1_000))
      .filter(({ subject }) => subject === id)
      .map(({ body }) => (body as { change: string }).change);
  const begun = () =>
    until(
      'it follows',
      async () => (await database.sql('SELECT * FROM change_sources', [])).length > 0,
    );

  it('are heard of once each, in order, also over a time when nobody listened', async () => {
    const before = await service.as('alice').create();
    const first = follow();
    await begun();
    const alice = service.as('alice');
    const id = await alice.create();
    await alice.http.json('PUT', imageRoutes.image(id), { visibility: 'public' });
    await until('two are heard', async () => (await heard(id)).length === 2);
    await first[Symbol.asyncDispose]();
    await alice.delete(id);
    await service.stop();
    await service.resume();
    scope.use(follow());
    await until('the rest is heard', async () => (await heard(id)).length === 3);
    assert.deepEqual(await heard(id), ['created', 'changed', 'removed']);
    assert.deepEqual(await heard(before), [], 'what was before is in the lists');
  });

  it('go to nobody but servers and administrators', async () => {
    await assert.rejects(service.as('alice').http.json('GET', imageRoutes.changes), {
      code: 'FORBIDDEN',
    });
    await assert.rejects(service.as().http.json('GET', imageRoutes.changes), { code: 'FORBIDDEN' });
  });

  it('that are forgotten are said to be lost', async () => {
    const admin = service.as('root/admin');
    const { body } = await admin.http.json('GET', `${imageRoutes.changes}?since=1&waitSeconds=20`);
    const { lost, next } = ImageChanges.parse(body);
    assert.ok(lost);
    const again = await admin.http.json('GET', `${imageRoutes.changes}?since=${next}`);
    assert.deepEqual(ImageChanges.parse(again.body), { changes: [], next, lost: false });
  });
});
