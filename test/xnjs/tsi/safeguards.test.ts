import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { TsiError } from '#tsi/protocol/error.js';
import { withSafeguards } from '#xnjs/tsi/safeguards.js';
import type { BssEntry, Submission, Tsi } from '#xnjs/tsi/tsi.js';

const alice = { login: 'alice', groups: 'NONE' };
const attemptId = '4b1c7c3e-0000-4000-8000-000000000001';
const no = (): never => assert.fail('not expected to be called');

/** A TSI that runs scripts here, and does the rest as the test says. */
function localTsi(rest: Partial<Tsi>): Tsi {
  const others = { ping: no, list: no, read: no, write: no, space: no, details: no };
  const lists = { aclSupport: no, getAcl: no, setAcl: no };
  const control = { hold: no, resume: no, runOnLoginNode: no, processes: no, killOnLoginNode: no };
  const reservations = { makeReservation: no, queryReservation: no, cancelReservation: no };
  const facts = { partitions: no, budget: no, userInfo: no, ...reservations };
  return {
    ...others,
    ...lists,
    ...control,
    ...facts,
    status: no,
    submit: no,
    abort: no,
    execute: (_, script) => Promise.resolve(execFileSync('bash', ['-c', script]).toString()),
    ...rest,
  }; // methods that a test does not need may be missing
}

describe('a submission to a TSI that knows no attempts', () => {
  let uspaceDir: string;
  before(() => (uspaceDir = mkdtempSync(join(tmpdir(), 'vsite-uspace $HOME '))));
  after(() => rmSync(uspaceDir, { recursive: true }));
  const submission = (): Submission => ({
    uspaceDir,
    outcomeDir: uspaceDir,
    stdout: 'o',
    stderr: 'e',
    jobName: 'n',
    attemptId,
    script: '',
  });
  /** As the original does it: the message in a file, then the job. Its answer is lost. */
  const losing = (name: string, { starts = true } = {}) => {
    let submitted = 0;
    const tsi = localTsi({
      submit: (_, { attemptId: attempt }) => {
        submitted += 1;
        writeFileSync(join(uspaceDir, name), `#TSI_SUBMIT\n#TSI_SUBMIT_ID ${attempt}\n`);
        if (starts) writeFileSync(join(uspaceDir, 'o'), '');
        return Promise.reject(new TsiError('TSI_UNAVAILABLE', 'lost'));
      },
    });
    return { tsi: withSafeguards(tsi, systemClock), submitted: () => submitted };
  };

  it('gets the id of the first one when it is repeated', async () => {
    const { tsi, submitted } = losing('UNICORE_Job_4242762877240702');
    await assert.rejects(tsi.submit(alice, submission()), { code: 'TSI_UNAVAILABLE' });
    assert.equal(await tsi.submit(alice, submission()), '4242762877240702');
    assert.equal(submitted(), 1);
    const other = { ...submission(), attemptId: `${attemptId}0` };
    await assert.rejects(tsi.submit(alice, other), { code: 'TSI_UNAVAILABLE' });
    assert.equal(submitted(), 2);
  });

  it('is made again when the worker was killed before it started anything', async () => {
    const again = { ...submission(), attemptId: 'not started' };
    const { tsi, submitted } = losing('UNICORE_Job_5242762877240702', { starts: false });
    await assert.rejects(tsi.submit(alice, again), { code: 'TSI_UNAVAILABLE' });
    await assert.rejects(tsi.submit(alice, again), { code: 'TSI_UNAVAILABLE' });
    assert.equal(submitted(), 2);
  });

  it('beside the batch system gets the pid of the run that lives, or has ended', async () => {
    const run = { ...submission(), attemptId: 'beside' };
    const name = 'UNICORE_Job_a1b2c3';
    writeFileSync(join(uspaceDir, name), '#!/bin/bash\n#TSI_SUBMIT_ID beside\nsleep 100\n', {
      mode: 0o755,
    });
    const script = `./${name} > o 2> e`;
    const child = spawn('bash', ['-c', script], {
      cwd: uspaceDir,
      detached: true,
      stdio: 'ignore',
    });
    const ended = once(child, 'exit');
    const tsi = withSafeguards(localTsi({}), systemClock);
    try {
      assert.equal(await tsi.runOnLoginNode(alice, run), String(child.pid));
    } finally {
      process.kill(-(child.pid ?? 0), 'SIGKILL');
    }
    await ended;
    const pid = Number(await tsi.runOnLoginNode(alice, run));
    assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
  });

  it('is refused when a batch system may have it under an id that nobody knows', async () => {
    const again = { ...submission(), attemptId: 'another' };
    const { tsi, submitted } = losing('UNICORE_Job_x1y2z3');
    await assert.rejects(tsi.submit(alice, again), { code: 'TSI_UNAVAILABLE' });
    await assert.rejects(tsi.submit(alice, again), { code: 'TSI_FAILED', message: /lost/ });
    assert.equal(submitted(), 1);
  });
});

describe('an abort by a TSI that only asks', () => {
  const running: BssEntry = { state: 'RUNNING', queue: 'NOBATCH' };

  it('waits until the job has left the list', async () => {
    let asked = 0;
    const status = (): Promise<Map<string, BssEntry>> =>
      Promise.resolve(new Map(++asked < 3 ? [['7', running]] : []));
    const clock = { now: () => 0, sleep: () => Promise.resolve() };
    const tsi = localTsi({ status, abort: () => Promise.resolve(), execute: no });
    await withSafeguards(tsi, clock).abort(alice, '7');
    assert.equal(asked, 3);
  });

  it('kills a job that does not end, and no other', async () => {
    const job = (id: string) =>
      spawn(
        'bash',
        ['-c', `exec -a "nice ./UNICORE_Job_${id}" sleep 100`, `nice ./UNICORE_Job_${id}`],
        {
          detached: true,
          stdio: 'ignore',
        },
      );
    const [mine, other] = [job('123456789'), job('1234567890')];
    const ended = once(mine, 'exit');
    let ms = 0;
    const clock = { now: () => (ms += 1_000), sleep: () => Promise.resolve() };
    const status = (): Promise<Map<string, BssEntry>> =>
      Promise.resolve(new Map([['123456789', running]]));
    try {
      const tsi = localTsi({ status, abort: () => Promise.resolve() });
      await withSafeguards(tsi, clock).abort(alice, '123456789');
      assert.deepEqual(await ended, [null, 'SIGKILL']);
      assert.equal(other.exitCode ?? other.signalCode, null);
    } finally {
      other.kill('SIGKILL');
      mine.kill('SIGKILL');
    }
  });

  it('leaves the waiting to a batch system', async () => {
    const queued: BssEntry = { state: 'RUNNING', queue: 'batch' };
    const status = () => Promise.resolve(new Map([['7', queued]]));
    const tsi = localTsi({ status, abort: () => Promise.resolve(), execute: no });
    await withSafeguards(tsi, systemClock).abort(alice, '7');
  });
});
