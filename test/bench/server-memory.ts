import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readRecord } from '#cli/host/process.js';
import {
  demoUser,
  siteUrl,
  writeConfiguration,
  writeIdentities,
} from '#cli/quickstart/configuration.js';
import { layoutOf } from '#cli/quickstart/layout.js';
import { startServer, stopServer } from '#cli/quickstart/server.js';
import { createHttpClient } from '#kernel/http/client.js';
import { freePort } from '../grid/grid.js';
import { residentMb } from './cpu.js';
import { fillStore } from './engine-rig.js';
import { inFlight, type Row } from './report.js';

const limitMb = 200;
const gets = 500;

/**
 * Memory of a whole server, all services in one process as the quickstart runs them, that has just
 * started with a full store and answered some questions about it. Its hypervisors are out of reach.
 */
export async function serverMemory(stored: number): Promise<Row> {
  const directory = await mkdtemp(join(tmpdir(), 'vsite-bench-'));
  await chmod(directory, 0o711);
  const layout = layoutOf(directory);
  try {
    const address = { host: '127.0.0.1', port: await freePort() };
    const { user } = await writeIdentities(layout);
    const nowhere = 'qemu+unix:///system?socket=/nowhere';
    await writeConfiguration(layout, address, { machines: nowhere, acceleration: 'qemu' });
    await fillStore(directory, stored, user.dn, 'targetsystem');
    await startServer(layout, siteUrl(address));
    const ca = await readFile(join(layout.credentials, 'ca.pem'), 'utf8');
    const auth = { user: demoUser.name, password: demoUser.password };
    await using client = createHttpClient({ baseUrl: siteUrl(address), tls: { ca }, auth });
    const { body } = await client.json('GET', '/VSITE/rest/core/jobs?num=1000');
    const { jobs } = body as { jobs: string[] };
    await inFlight(gets, 8, (at) => client.json('GET', new URL(jobs[at] ?? '').pathname));
    const { pid = 0 } = (await readRecord(layout.serverRecord)) ?? {};
    const mb = residentMb(pid);
    return {
      what: `memory of the server, ${stored} finished jobs stored`,
      value: `${mb.toFixed(0)} MB`,
      goal: `< ${limitMb} MB`,
      met: mb < limitMb,
      baseline: `after ${gets} GETs of jobs and a list of 1,000`,
    };
  } finally {
    await stopServer(layout);
    await rm(directory, { recursive: true, force: true });
  }
}
