import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage, RequestListener } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { ChangeFeed } from '#kernel/persistence/change-feed.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import type { Scope } from '#kernel/scope.js';
import { EventsConfig, EventStreams } from '#targetsystem/rest/event-streams.js';
import { eventOperations } from '#targetsystem/rest/events.js';
import { changesTable } from '#xnjs/persistence/job-models.js';
import { ownerDn, type EngineRig } from '../xnjs/job/rig.js';

/** A site that serves the events of an engine's database, as the target system service does, to the jobs' owner. */
export async function serveEvents(scope: Scope, rig: EngineRig): Promise<RequestListener> {
  const url = `sqlite:${join(rig.directory, 'jobs')}.sqlite`;
  const database = scope.use(await openDatabase({ url, log: silentLog }));
  const feed = scope.use(
    new ChangeFeed({
      changes: new ChangeLog(database, changesTable),
      bounds: { maxCount: 10_000, maxAgeMs: 3_600_000 },
      clock: systemClock,
      log: silentLog,
    }),
  );
  rig.engine.onChange(() => feed.wake());
  const events = scope.use(new EventStreams(feed, EventsConfig.parse({})));
  return createRestApp({
    mounts: [
      mount('/rest/core', eventOperations, {
        ...{ events, jobs: rig.engine, imagesUrl: () => 'https://site/IMAGES' },
        systems: { get: () => assert.fail('jobs only') },
      }),
    ],
    authenticate: () => ({ dn: ownerDn, role: 'user' }),
    externalUrl: 'https://site/VSITE',
    log: silentLog,
  });
}

export type Received = { readonly id: string; readonly job: string; readonly status: string };

/** Reads the stream through the gateway; `ended` tells how it ended: with its last chunk, or cut off. */
export async function followEvents(
  gateway: { port: number; ca: string },
  take: (event: Received) => void,
  lastEventId?: string,
): Promise<{ ended: Promise<'whole' | 'cut off'>; leave: () => void; lastId: () => string }> {
  const request = httpsRequest({
    ...{ host: 'localhost', ...gateway, path: '/VSITE/rest/core/events', agent: false },
    headers: {
      Accept: 'text/event-stream',
      ...(lastEventId !== undefined && { 'Last-Event-ID': lastEventId }),
    },
  });
  const [response] = (await once(request.end(), 'response')) as [IncomingMessage];
  if (response.statusCode !== 200) throw new Error(`no stream: ${response.statusCode}`);
  let lastId = '';
  let text = '';
  response.setEncoding('utf8').on('error', () => undefined);
  response.on('data', (chunk: string) => {
    text += chunk;
    const blocks = text.split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      lastId = /^id: ?(.*)$/m.exec(block)?.[1] ?? lastId;
      const data = /^data: ?(.*)$/m.exec(block)?.[1];
      if (data === undefined) continue;
      const { id: job, status } = JSON.parse(data) as { id: string; status: string };
      take({ id: lastId, job, status });
    }
  });
  const ended = once(response, 'close').then(() =>
    response.complete ? ('whole' as const) : ('cut off' as const),
  );
  // The first thing it says is where it stands
  while (lastId === '') await once(response, 'data');
  return { ended, leave: () => response.destroy(), lastId: () => lastId };
}
