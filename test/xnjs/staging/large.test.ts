import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { Agent, scratch } from '../job/rig.js';
import { measure, startLarge } from './large.js';

const MiB = 1024 * 1024;
/** Small enough for every run of the tests; the bench takes 5 GiB. Four times what the process may use. */
const sizeBytes = 1_024 * MiB;
const mostMiB = 250;

describe('files larger than memory', { timeout: 300_000 }, () => {
  it('passes them on in both directions without keeping them', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const server = await startLarge(scope, sizeBytes);
    const description = {
      Imports: [{ From: `${server.url}/large`, To: 'large' }],
      Exports: [{ From: 'large', To: `${server.url}/up` }],
    };
    const received = await measure(directory, agent.socket, description);
    assert.equal(statSync(join(directory, 'jobs', received.jobId, 'large')).size, sizeBytes);
    assert.ok(received.peakMiB < mostMiB, `${received.peakMiB} MiB to receive`);
    const sent = await measure(directory, agent.socket, {}, 'out', received.jobId);
    assert.equal(server.counted(), sizeBytes);
    assert.ok(sent.peakMiB < mostMiB, `${sent.peakMiB} MiB to send`);
  });
});
