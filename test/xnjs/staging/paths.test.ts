import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { Job } from '#xnjs/job/job.js';
import { startStaging, type StagingRig } from './rig.js';
import { siteUrl } from './wiring.js';

const outs = [
  '../secret',
  '../../secret',
  'a/../../../secret',
  '/../../../../../../etc/passwd',
  'x\0/../../secret',
  'a\n../../secret',
  '..\\..\\secret',
];
const escaped = ['..%2fsecret', '%2e%2e/secret', '%2e%2e%2f%2e%2e%2fsecret', '%252e%252e/secret'];

describe('what a job names in its files', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: StagingRig;
  let storage: string;
  /** Beside the storage's directory of the user, beside all of them, and beside the job's. */
  let secrets: string[];
  before(async () => {
    rig = await startStaging(scope, { config: { retries: 1 } });
    storage = `${siteUrl}/rest/core/storages/DATA/files`;
    await stage({ Imports: [{ To: 'mine', Data: 'mine' }], Exports: [{ From: 'mine', To: `${storage}/mine` }] }); // prettier-ignore
    const [own = ''] = readdirSync(join(rig.directory, 'data')).filter(
      (name) => !name.startsWith('.'),
    );
    secrets = ['data/secret', 'secret', 'jobs/secret'].map((name) => join(rig.directory, name));
    for (const path of secrets) writeFileSync(path, 'TOP SECRET');
    symlinkSync(rig.directory, join(rig.directory, 'data', own, 'link'));
  });
  after(() => scope.close());

  /** @returns the job, and whether all came through */
  async function stage(description: object): Promise<{ job: Job; done: boolean }> {
    const job = await rig.makeJob(description);
    try {
      await rig.stage(job, 'in');
      await rig.stage(job, 'out');
      return { job, done: true };
    } catch {
      return { job, done: false };
    }
  }
  function untouched({ job }: { job: Job }, what: string): void {
    for (const path of secrets) assert.equal(readFileSync(path, 'utf8'), 'TOP SECRET', what);
    const got = rig.path(job, 'got');
    if (existsSync(got)) assert.doesNotMatch(readFileSync(got, 'utf8'), /TOP SECRET|root:x/, what);
  }

  for (const out of outs)
    it(`stays in its directory: ${JSON.stringify(out)}`, async () => {
      const landed = await stage({ Imports: [{ To: out, Data: 'x' }] });
      untouched(landed, 'To');
      untouched(await stage({ Imports: [{ To: `sub/${out}`, Data: 'x' }] }), 'To');
      const sent = await stage({ Exports: [{ From: out, To: `${storage}/stolen` }] });
      assert.equal(sent.done, false, 'From');
      const read = await stage({ Imports: [{ From: `${storage}/stolen`, To: 'got' }] });
      assert.equal(read.done, false, 'nothing was sent');
    });

  for (const out of [...outs, ...escaped, 'link/secret', 'link/data/secret', 'link/*', 'l*/secret'])
    it(`stays in the storage: ${JSON.stringify(out)}`, async () => {
      const read = await stage({ Imports: [{ From: `${storage}/${out}`, To: 'got' }] });
      assert.equal(read.done, false, 'From');
      untouched(read, 'From');
      mkdirSync(rig.path(read.job, ''), { recursive: true });
      const written = await stage({
        Imports: [{ To: 'mine', Data: 'overwritten' }],
        Exports: [{ From: 'mine', To: `${storage}/${out}` }],
      });
      untouched(written, 'To');
    });
});
