import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { config, ScriptedTsi } from '../xnjs/job/scripted.js';
import { scratch, startEngineOn } from '../xnjs/job/rig.js';
import { followEvents, serveEvents, type Received } from './event-site.js';
import { eventually, startRig } from './rig.js';

describe('a stream of events through the gateway', () => {
  it('ends whole when the gateway closes, and goes on at the next one where it was', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const engine = await startEngineOn(scope, scratch(scope), () => script.tsi, { config });
    const site = await serveEvents(scope, engine);
    await using first = await startRig(site, { limits: { drainSeconds: 60 } });

    const received: Received[] = [];
    const take = (event: Received) => received.push(event);
    const statuses = (job: string) =>
      received.filter((event) => event.job === job).map(({ status }) => status);
    const stream = await followEvents(first, take);
    const before = await engine.submit({ Executable: 'x' });
    await eventually(() => statuses(before).at(-1) === 'SUCCESSFUL', 'the job is over');
    await first.gateway.close();
    assert.equal(await stream.ended, 'whole');

    const missed = await engine.submit({ Executable: 'x' });
    await engine.finished(missed);
    await using second = await startRig(site);
    const resumed = await followEvents(second, take, stream.lastId());
    await eventually(() => statuses(missed).at(-1) === 'SUCCESSFUL', 'what was missed comes');
    const later = await engine.submit({ Executable: 'x' });
    await eventually(() => statuses(later).at(-1) === 'SUCCESSFUL', 'and what is new');
    // In order, nothing twice
    const ids = received.map(({ id }) => Number(id));
    assert.deepEqual(
      ids,
      [...new Set(ids)].sort((a, b) => a - b),
    );
    assert.deepEqual(statuses(missed)[0], 'READY');
    resumed.leave();
  });
});
