import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { HttpClient } from '#kernel/http/client.js';
import { Installation, publishImage } from '../bench/scale/installation.js';
import { readMetrics, valueOf } from '../bench/scale/scrape.js';
import { eventually, factoryPath, refusal, sitePath } from './grid.js';

const machines = 8;

/** libvirt and machines are fakes (test/bench/scale); the agents are ours, and so is all the rest. */
describe('the figures of a server', { timeout: 180_000 }, () => {
  let installation: Installation;
  let user: HttpClient;
  let text: string;
  before(async () => {
    installation = await Installation.start();
    user = await installation.client();
    const image = await publishImage(installation);
    const sites: string[] = [];
    for (let at = 0; at < machines; at++) {
      const { headers } = await user.json('POST', factoryPath, { image });
      sites.push(new URL(String(headers['location'])).pathname);
    }
    await installation.untilUp(machines, 60_000);
    await run(user, `${sites[0] ?? ''}/jobs`);
    await assert.rejects(user.json('GET', `${sitePath}/jobs/none`));
    text = await readMetrics(installation.metricsUrls.targetsystem);
  });
  after(() => installation[Symbol.asyncDispose]());

  it('tell of target systems, their starts and their agents', () => {
    const ready = 'vsite_target_systems{state="READY",driver="qemu",tier="cold"}';
    assert.equal(valueOf(text, ready), machines);
    assert.equal(valueOf(text, 'vsite_agent_links{state="up"}'), machines);
    const started = 'vsite_target_system_start_duration_seconds_count{tier="cold",driver="qemu"}';
    assert.equal(valueOf(text, started), machines);
    assert.equal(valueOf(text, 'vsite_hypervisor_up{host="local",driver="qemu"}'), 1);
    assert.equal(valueOf(text, 'vsite_orphan_domains'), 0);
  });

  it('tell of jobs', () => {
    assert.equal(valueOf(text, 'vsite_jobs_submitted_total'), 1);
    assert.equal(valueOf(text, 'vsite_job_states_entered_total{state="DONE"}'), 1);
    assert.equal(valueOf(text, 'vsite_jobs{state="finished"}'), 1);
    assert.equal(valueOf(text, 'vsite_job_calls{state="waiting"}'), 0);
  });

  it('tell of requests, of decisions, of hypervisor and database', () => {
    const asked = (status: number, path: string) =>
      valueOf(text, `vsite_rest_requests_total{operation="${path}",status="${status}"}`);
    assert.equal(asked(201, 'POST /factories/:factoryId'), machines);
    assert.equal(asked(404, 'GET /jobs/:jobId'), 1);
    assert.ok(valueOf(text, 'vsite_auth_decisions_total') > machines);
    const defined =
      'vsite_libvirt_call_duration_seconds_count{procedure="domain_define_xml_flags"}';
    assert.equal(valueOf(text, defined), machines);
    assert.ok(valueOf(text, 'vsite_database_call_duration_seconds_count') > machines);
    assert.equal(valueOf(text, 'vsite_database_failures_total'), 0);
  });

  it('are served by gateway and image repository, too', async () => {
    const gateway = await readMetrics(installation.metricsUrls.gateway);
    const created = 'vsite_gateway_requests_total{vsite="VSITE",status="201"}';
    assert.equal(valueOf(gateway, created), machines + 1);
    const images = await readMetrics(installation.metricsUrls.imagerepo);
    assert.ok(valueOf(images, 'vsite_rest_requests_total') > 0);
  });

  it('hold to the format, have help and type, and name nobody', () => {
    const sample = /^[a-z_][a-z0-9_]*(\{([a-z_]+="[^"\n]*",?)+\})? -?([0-9.e+-]+|Nan|\+Inf)$/;
    const described = new Set<string>();
    for (const line of text.split('\n').filter((each) => each !== '')) {
      const [, name] = /^# TYPE (\S+) (?:counter|gauge|histogram|summary)$/.exec(line) ?? [];
      if (name !== undefined) described.add(name);
      else assert.match(line, line.startsWith('# HELP ') ? /^# HELP \S+ \S/ : sample);
      if (line.startsWith('#')) continue;
      const [family = ''] = line.split(/[{ ]/, 1);
      assert.ok(described.has(family) || described.has(family.replace(/_(bucket|sum|count)$/, '')));
    }
    assert.doesNotMatch(text, /CN=|demouser|[0-9a-f]{8}-[0-9a-f]{4}-/);
  });

  it('are not to be had through the gateway, nor at another path', async () => {
    await assert.rejects(user.json('GET', '/VSITE/metrics'), refusal(404, /no such/));
    const elsewhere = new URL('/', installation.metricsUrls.targetsystem);
    assert.equal((await fetch(elsewhere)).status, 404);
  });
});

async function run(user: HttpClient, jobs: string): Promise<void> {
  const { headers } = await user.json('POST', jobs, { Executable: '/bin/true' });
  const job = new URL(String(headers['location'])).pathname;
  await eventually('the job has ended', async () => {
    const { status, log } = (await user.json('GET', job)).body as { status: string; log: string[] };
    assert.notEqual(status, 'FAILED', log.join('\n'));
    return status === 'SUCCESSFUL';
  });
}
