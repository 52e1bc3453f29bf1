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
import { databases, openTables } from '../xnjs/persistence/databases.js';
import { until } from '../xnjs/job/rig.js';
import { config, ScriptedTsi } from '../xnjs/job/scripted.js';
import { LocalTargets, newEngine, targetId } from '../xnjs/job/rig.js';
import { aTargetSystem } from '../xnjs/vm/samples.js';

const callers: Record<string, Caller> = {
  alice: { dn: 'CN=Alice,O=Grid', role: 'user' },
  bob: { dn: 'CN=Bob,O=Grid', role: 'user' },
  root: { dn: 'CN=Root,O=Grid', role: 'admin' },
  nobody: { dn: 'CN=Nobody', role: 'anonymous' },
};
type Event = { id?: string; event?: string; data?: Record<string, unknown> };

/** One client. Comments are counted, events kept. */
class Client {
  readonly events: Event[] = [];
  heartbeats = 0;
  ended = false;
  lastId = '';
  retry = '';
  readonly response: IncomingMessage;

  constructor(response: IncomingMessage) {
    this.response = response;
    let text = '';
    response.setEncoding('utf8').on('error', () => undefined);
    response.on('close', () => (this.ended = true));
    response.on('data', (chunk: string) => {
      text += chunk;
      for (let at = text.indexOf('\n\n'); at >= 0; at = text.indexOf('\n\n')) {
        this.#take(text.slice(0, at));
        text = text.slice(at + 2);
      }
    });
  }

  #take(block: string): void {
    const fields = new Map(
      block.split('\n').map((line) => line.split(/: ?(.*)/s) as [string, string]),
    );
    if (fields.has('')) this.heartbeats++;
    this.retry = fields.get('retry') ?? this.retry;
    const id = fields.get('id');
    this.lastId = id ?? this.lastId;
    const data = fields.get('data');
    if (data === undefined) return;
    const event = fields.get('event');
    this.events.push({
      ...(id && { id }),
      ...(event && { event }),
      data: JSON.parse(data) as never,
    });
  }

  of(subject: string): unknown[] {
    return this.events
      .filter(({ data }) => data?.['id'] === subject)
      .map(({ data }) => data?.['status'] ?? data?.['change']);
  }
  async has(subject: string, last: string): Promise<void> {
    await until(`${subject} ${last}`, () => this.of(subject).at(-1) === last);
  }
  leave(): void {
    this.response.destroy();
  }
}

for (const [name, create, skip] of databases)
  describe(`events from ${name}`, { skip, timeout: 60_000 }, () => {
    const scope = new Scope();
    let url: string;
    let server: Scope;
    let port: number;
    let database: Database;
    let engine: ReturnType<typeof newEngine>;
    let streams: EventStreams;
    const script = new ScriptedTsi();

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
        EventsConfig.parse({ perUser: 3, heartbeatSeconds: 0.1, ...events }),
      );
      const app = createRestApp({
        mounts: [
          mount('/rest/core', eventOperations, {
            events: streams,
            imagesUrl: () => 'https://site/IMAGES',
          }),
        ],
        authenticate: ({ headers }) => callers[String(headers['x-user'])]!,
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
      const client = new Client(await ask(user, query, headers));
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
