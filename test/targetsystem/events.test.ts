import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import type { Caller } from '#kernel/http/caller.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { ChangeFeed } from '#kernel/persistence/change-feed.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import { Scope } from '#kernel/scope.js';
import { EventsConfig, EventStreams } from '#targetsystem/rest/event-streams.js';
import { eventOperations } from '#targetsystem/rest/events.js';
import { siteChange } from '#xnjs/changes/site-change.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import { VmError } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { databases, openTables } from '../xnjs/persistence/databases.js';
import { until } from '../xnjs/job/rig.js';
import { config, ScriptedTsi } from '../xnjs/job/scripted.js';
import { LocalTargets, newEngine, targetId } from '../xnjs/job/rig.js';
import { aTargetSystem } from '../xnjs/vm/samples.js';
import { EventClient } from './event-client.js';

const callers: Record<string, Caller> = {
  alice: { dn: 'CN=Alice,O=Grid', role: 'user' },
  bob: { dn: 'CN=Bob,O=Grid', role: 'user' },
  carol: { dn: 'CN=Carol,O=Grid', role: 'user' },
  root: { dn: 'CN=Root,O=Grid', role: 'admin' },
  nobody: { dn: 'CN=Nobody', role: 'anonymous' },
};
const unknownSystem = (id: string): never => {
  throw new VmError('NOT_FOUND', `no target system ${id}`);
};

for (const [name, create, skip] of databases)
  describe(`events from ${name}`, { skip, timeout: 60_000 }, () => {
    const scope = new Scope();
    let url: string;
    let server: Scope;
    let port: number;
    let database: Database;
    let engine: ReturnType<typeof newEngine>;
    let streams: EventStreams;
    let feedOf: ChangeFeed;
    const script = new ScriptedTsi();
    /** As the service of target systems would have them. */
    const systems = new Map<string, TargetSystem>();
    /** What is new of callers, by name. */
    const changed = new Map<string, Partial<Caller>>();

    before(async () => {
      url = await create(scope);
      await start();
    });
    after(async () => {
      await server.close();
      await scope.close();
    });

    /** The whole server anew, on the database of the one before. */
    async function start(events: object = {}, bounds = { maxCount: 10_000, maxAgeMs: 3_600_000 }) {
      server = new Scope();
      database = await openTables(server, url);
      const changes = new ChangeLog(database, 'changes');
      const feed = server.use(
        new ChangeFeed({ changes, bounds, clock: systemClock, log: silentLog }),
      );
      feedOf = feed;
      engine = server.use(
        newEngine({
          store: createJobStore(database),
          targets: new LocalTargets(() => script.tsi, '/jobs'),
          config,
        }),
      );
      engine.onChange(() => feed.wake());
      await engine.attach();
      streams = new EventStreams(
        feed,
        EventsConfig.parse({
          ...{ perUser: 3, heartbeatSeconds: 0.1, recheckSeconds: 0.05, ...events },
        }),
      );
      const app = createRestApp({
        mounts: [
          mount('/rest/core', eventOperations, {
            events: streams,
            jobs: engine,
            systems: { get: (id) => systems.get(id) ?? unknownSystem(id) },
            imagesUrl: () => 'https://site/IMAGES',
          }),
        ],
        authenticate: Object.assign(
          ({ headers }: IncomingMessage) => callers[String(headers['x-user'])]!,
          { renew: (caller: Caller) => Promise.resolve({ ...caller, ...changed.get(caller.dn) }) },
        ),
        externalUrl: 'https://site/VSITE',
        log: silentLog,
      });
      ({ port = 0 } = await listen(app, { host: '127.0.0.1', port: 0 }, server));
      server.use(streams);
      return { changes, feed };
    }

    async function ask(user: string, query = '', headers: Record<string, string> = {}) {
      const path = `/rest/core/events${query}`;
      const request = httpRequest({
        port,
        host: '127.0.0.1',
        path,
        agent: false,
        headers: { 'x-user': user, ...headers },
      });
      const [response] = (await once(request.end(), 'response')) as [IncomingMessage];
      return response;
    }
    async function connect(user: string, query = '', headers: Record<string, string> = {}) {
      const client = new EventClient(await ask(user, query, headers));
      assert.equal(client.response.statusCode, 200);
      await until('it knows where it is', () => client.lastId !== '');
      return client;
    }
    const submit = async (user: string) =>
      (
        await engine.submit({
          ownerDn: callers[user]!.dn,
          targetId,
          description: { Executable: 'x' },
        })
      ).id;

    it('tell the owner and administrators of every state of a job, and nobody else', async () => {
      const [alice, bob, root] = [
        await connect('alice'),
        await connect('bob'),
        await connect('root'),
      ];
      const id = await submit('alice');
      await alice.has(id, 'SUCCESSFUL');
      await root.has(id, 'SUCCESSFUL');
      assert.equal(alice.of(id)[0], 'READY');
      assert.ok(alice.of(id).includes('QUEUED'));
      const last = alice.events.at(-1)!;
      assert.equal(last.event, 'job');
      assert.deepEqual(last.data, {
        ...{ type: 'job', id, change: 'status', name: 'UNICORE_Job', status: 'SUCCESSFUL' },
        ...{ statusMessage: '', exitCode: '0', time: last.data!['time'] },
        href: `https://site/VSITE/rest/core/jobs/${id}`,
        site: `https://site/VSITE/rest/core/sites/${targetId}`,
      });
      await engine.destroy(id);
      await until('its deletion', () => alice.events.at(-1)!.data!['change'] === 'deleted');
      const ids = alice.events.map((event) => Number(event.id));
      assert.deepEqual(
        ids,
        [...new Set(ids)].sort((a, b) => a - b),
      );
      assert.deepEqual(bob.events, []);
      for (const client of [alice, bob, root]) client.leave();
    });

    it('tell those whom the ACL of a job lets read, as long as it does', async () => {
      const [bob, carol] = [await connect('bob'), await connect('carol')];
      const beginning = carol.lastId;
      const [id, other] = [await submit('alice'), await submit('alice')];
      const isOver = (job: string) =>
        until('it is over', async () => (await engine.get(job)).state === 'DONE');
      await isOver(id);
      await isOver(other);
      const deleted = (client: EventClient) =>
        until('its deletion', () => {
          const { id: job, change } = client.events.at(-1)?.data ?? {};
          return job === other && change === 'deleted';
        });
      const grant = (acl: string[], job = id) => engine.update(job, { acl });
      await grant(['read:DN:CN=Carol,O=Grid']);
      await grant(['write:DN:CN=Carol,O=Grid'], other);
      await engine.restart(id);
      await carol.has(id, 'SUCCESSFUL');
      const [first] = carol.events;
      assert.notEqual(first!.data!['change'], 'created', 'what was before it was granted');
      assert.equal(JSON.stringify(carol.events).includes('CN=Carol'), false, 'not the ACL');
      const told = carol.events.length;
      await grant([]);
      await engine.restart(id);
      await isOver(id);
      await engine.destroy(id);
      await engine.destroy(other);
      await deleted(carol); // after all that was not told
      assert.deepEqual([carol.events.length, carol.events.at(-1)!.event], [told + 1, 'job']);
      assert.deepEqual(bob.events, []);
      const again = await connect('carol', `?since=${beginning}`);
      await deleted(again);
      assert.deepEqual(again.of(id), [], 'what was told before it was taken away');
      for (const client of [bob, carol, again]) client.leave();
    });

    it('end when their client is banned, or is none of the users any more', async () => {
      for (const role of ['banned', 'anonymous']) {
        const bob = await connect('bob');
        changed.set(callers['bob']!.dn, { role });
        await until('its end', () => bob.events.at(-1)?.data?.['reason'] === 'forbidden');
        await until('it is closed', () => streams.size === 0);
        changed.clear();
      }
    });

    it('tell those whom the ACL of a target system lets read, until it is deleted', async () => {
      const carol = await connect('carol', '?types=site');
      const alice = await connect('alice', '?types=site');
      const store = createTargetStore(database, () => feedOf.wake());
      const save = async (change: 'state' | 'deleted', acl: string[], now = acl) => {
        const system = aTargetSystem({ id: 's1', ownerDn: callers['alice']!.dn, acl });
        systems.set('s1', { ...system, acl: now });
        if (change === 'state') await store.save(system, siteChange(change, system));
        else await store.remove(system, siteChange(change, system));
        if (change === 'deleted') systems.delete('s1');
      };
      const acl = ['read:ROLE:user'];
      await save('state', ['read:GROUP:physics']);
      await save('state', acl, []); // taken away since
      await save('state', []);
      // who may see an event is decided when it is sent
      await until('all are sent', () => alice.of('s1').length === 3);
      await save('deleted', acl);
      await carol.has('s1', 'deleted');
      assert.deepEqual(carol.of('s1'), ['deleted']);
      await save('state', acl);
      await carol.has('s1', 'state');
      carol.leave();
      alice.leave();
    });

    it('never come before the state is stored', async () => {
      const alice = await connect('alice');
      const seen: Promise<unknown>[] = [];
      alice.response.on('data', () => {
        for (const { data } of alice.events.splice(0))
          seen.push(engine.get(String(data!['id'])).then(({ state }) => [data!['status'], state]));
      });
      const id = await submit('alice');
      await until('it is over', async () => (await engine.get(id)).state === 'DONE');
      await until('all are seen', () => seen.length >= 4);
      for (const pair of (await Promise.all(seen)) as [string, string][])
        if (pair[0] === 'SUCCESSFUL') assert.equal(pair[1], 'DONE');
      alice.leave();
    });

    it('go on where the client was, also with another server on the database', async () => {
      const first = await connect('alice');
      const id = await submit('alice');
      await first.has(id, 'SUCCESSFUL');
      const half = first.events[1]!.id!;
      const rest = first.events.slice(2);
      first.leave();
      const missed = await submit('alice');
      await until('it is over', async () => (await engine.get(missed)).state === 'DONE');
      await server.close();
      await start();
      const second = await connect('alice', '', { 'last-event-id': half });
      await second.has(missed, 'SUCCESSFUL');
      assert.deepEqual(second.events.slice(0, rest.length), rest);
      const third = await connect('alice', `?since=${half}`);
      await third.has(missed, 'SUCCESSFUL');
      assert.deepEqual(third.events, second.events);
      second.leave();
      third.leave();
    });

    it('tell of target systems with the evidence, and only of types that are wanted', async () => {
      const { ownerDn } = { ownerDn: callers['alice']!.dn };
      const all = await connect('alice');
      const jobs = await connect('alice', '?types=job,image');
      const system = aTargetSystem({ ownerDn, state: 'READY' });
      const store = createTargetStore(database);
      await store.save(system, siteChange('state', system));
      const id = await submit('alice'); // its end comes after
      await jobs.has(id, 'SUCCESSFUL');
      await all.has(id, 'SUCCESSFUL');
      const site = all.events.find(({ event }) => event === 'site')!.data!;
      assert.deepEqual([site['id'], site['state'], site['change']], [system.id, 'READY', 'state']);
      assert.deepEqual((site['evidence'] as { fact: string }).fact, system.evidence.fact);
      assert.ok(jobs.events.every(({ event }) => event === 'job'));
      all.leave();
      jobs.leave();
    });

    it('show an image to others from when it is public until it is no more', async () => {
      const changes = new ChangeLog(database, 'changes');
      const [alice, bob] = [
        await connect('alice', '?types=image'),
        await connect('bob', '?types=image'),
      ];
      const tell = (change: string, wasPublic: boolean, isPublic: boolean) =>
        database.write(
          changes.statements([
            {
              type: 'image',
              subject: 'i',
              ownerDn: callers['alice']!.dn,
              body: { change, name: 'n', version: '1', isPublic, wasPublic },
            },
          ]),
        );
      await tell('created', false, false);
      await tell('changed', false, true);
      await tell('changed', true, false);
      await tell('removed', false, false);
      await submit('alice'); // wakes the feed
      await alice.has('i', 'removed');
      await bob.has('i', 'removed');
      assert.deepEqual(alice.of('i'), ['created', 'changed', 'changed', 'removed']);
      assert.deepEqual(bob.of('i'), ['published', 'removed']);
      alice.leave();
      bob.leave();
    });

    it('prove that they live, and move the position past what others see', async () => {
      const bob = await connect('bob');
      const before = bob.lastId;
      const id = await submit('alice');
      await until('it is over', async () => (await engine.get(id)).state === 'DONE');
      await until('the position moves', () => Number(bob.lastId) > Number(before));
      assert.ok(bob.heartbeats > 0);
      assert.deepEqual(bob.events, []);
      bob.leave();
    });

    it('are refused to strangers, beyond the limit, and for what makes no sense', async () => {
      const status = async (...how: Parameters<typeof ask>) => {
        const response = await ask(...how);
        response.destroy();
        return response.statusCode;
      };
      assert.equal(await status('nobody'), 403);
      assert.equal(await status('alice', '?types=job,weather'), 400);
      assert.equal(await status('alice', '?since=x'), 400);
      assert.equal(await status('alice', '', { accept: 'application/json' }), 406);
      await until('all have left', () => streams.size === 0);
      const open = await Promise.all([connect('alice'), connect('alice'), connect('alice')]);
      assert.equal(await status('alice'), 429);
      (await connect('bob')).leave();
      open.forEach((client) => client.leave());
      await until('all have left', () => streams.size === 0);
    });

    it('begin anew when what the client has is too old, or from elsewhere', async () => {
      const { changes, feed } = await (async () => {
        await server.close();
        return await start();
      })();
      const { oldest } = await changes.ends();
      const id = await submit('alice');
      await until('it is over', async () => (await engine.get(id)).state === 'DONE');
      await changes.prune({ maxCount: 2, maxAgeMs: 3_600_000 }, Date.now());
      const { oldest: left, newest } = await changes.ends();
      assert.equal(newest - left, 1);
      for (const asked of [`${oldest}`, `${newest + 1_000}`, 'x1']) {
        const client = await connect('alice', '', { 'last-event-id': asked });
        await until('reset', () => client.events.length > 0);
        const [{ event, id: position } = {}] = client.events;
        assert.deepEqual([event, position], ['reset', `${newest}`]);
        client.leave();
      }
      assert.equal((await feed.after(left - 1, 10))?.length, 2);
      await changes.prune({ maxCount: 100, maxAgeMs: 0 }, Date.now() + 60_000);
      assert.deepEqual(await changes.ends(), { oldest: newest, newest });
    });

    it('end with a word and a time to come again when the server closes', async () => {
      const alice = await connect('alice');
      await server.close();
      await until('the end', () => alice.ended);
      const { event, data } = alice.events.at(-1)!;
      assert.deepEqual([event, data, alice.retry], ['end', { reason: 'closing' }, '2000']);
      await start();
    });

    it('drop a client that takes nothing, with a last event, and keep little for it', async () => {
      await server.close();
      await start({ slowSeconds: 0.2 });
      const changes = new ChangeLog(database, 'changes');
      const slow = await connect('alice');
      slow.response.pause();
      const big = {
        change: 'created',
        name: 'x'.repeat(8_000),
        version: '1',
        isPublic: true,
        wasPublic: false,
      };
      const one = { type: 'image', subject: 'i', ownerDn: 'CN=X', body: big };
      for (let round = 0; round < 20; round++) {
        await database.write(changes.statements(Array.from({ length: 100 }, () => one)));
        await submit('bob'); // wakes the feed
      }
      await until('it is dropped', () => streams.size === 0);
      slow.response.resume();
      await until('it ends', () => slow.ended);
      assert.deepEqual(slow.events.at(-1)!.data, { reason: 'slow' });
      assert.ok(slow.events.length < 2_000, 'most was never sent');
      await server.close();
      await start();
    });
  });
