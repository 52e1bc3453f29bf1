import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { Host, JobRequest, Owner } from '../../tsi/bss/bss.js';
import { Slurm } from '../../tsi/bss/slurm.js';
import { scratch, until } from './agent-process.js';

/**
 * The adapter in front of programs that say what Slurm's said when it was recorded. For what a real one
 * does, see slurm.test.ts; this is about answers that it gives only in trouble, and how often it is asked.
 */
describe('Slurm in trouble', () => {
  const scope = new Scope();
  after(() => scope.close());
  const { username, uid, gid, homedir } = userInfo();
  const owner: Owner = { login: username, uid, gid, groups: [gid], home: homedir };
  const host: Host = {
    as: (_, work) => work(),
    spawn: (_, file, args, options) => spawn(file, args, { ...options, detached: true }),
  };
  let dir: string;
  beforeEach(() => {
    dir = scratch(scope);
  });

  /** A program that does the script, and notes each call with its arguments. */
  function program(name: string, script: string): string {
    const path = join(dir, name);
    writeFileSync(path, `#!/bin/sh\necho "$*" >>'${path}.calls'\n${script}\n`);
    chmodSync(path, 0o755);
    return path;
  }
  const calls = (name: string): string[] => {
    const path = join(dir, `${name}.calls`);
    return existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [];
  };
  /** @param scripts by the names of the keys */
  const slurm = (scripts: Record<string, string>, more: Record<string, string> = {}): Slurm => {
    const commands = Object.entries(scripts).map(([name, script]) => {
      const argument = name === 'abort' ? ' %s' : '';
      return [`tsi.${name}_cmd`, `${program(name, script)}${argument}`] as const;
    });
    const properties = new Map([...commands, ...Object.entries(more)]);
    return new Slurm({ host, stateDir: join(dir, 'state'), properties });
  };
  const says = (text: string, code = 1): string => `cat <<'EOT' >&2\n${text}\nEOT\nexit ${code}`;
  const job = (more: Partial<JobRequest> = {}): JobRequest => {
    const uspaceDir = join(dir, 'uspace');
    mkdirSync(uspaceDir, { recursive: true });
    const files = { uspaceDir, outcomeDir: uspaceDir, stdout: 'out', stderr: 'err' };
    return { ...files, script: '', text: '', attemptId: 'a', ...more };
  };
  const timedOut =
    'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation';

  it('a listing that fails is a failure, not an empty list', async () => {
    for (const said of [
      'slurm_load_jobs error: Unable to contact slurm controller (connect failure)',
      'slurm_load_jobs error: Socket timed out on send/recv operation',
    ])
      await assert.rejects(slurm({ qstat: says(said) }).status(), {
        code: 'TSI_FAILED',
        message: said,
      });
    await assert.rejects(slurm({ qstat: 'echo 7 RUNNING batch; exit 1' }).status(), {
      code: 'TSI_FAILED',
    });
    await assert.rejects(slurm({}, { 'tsi.qstat_cmd': join(dir, 'missing') }).status(), {
      message: /No such file/,
    });
  });

  it('warnings beside a listing are not part of it', async () => {
    const qstat = 'echo "squeue: warning: site maintenance 7 RUNNING x" >&2; echo 8 PENDING batch';
    assert.deepEqual(
      [...(await slurm({ qstat }).status())].map(([id]) => id),
      ['8'],
    );
  });

  it('a program that hangs is ended at the deadline, with what it started', async () => {
    const pid = join(dir, 'pid');
    const qstat = `sleep 600 & echo $! > '${pid}'; wait`;
    const hangs = slurm({ qstat }, { 'tsi.bss_timeout': '0.5' });
    await assert.rejects(hangs.status(), { message: /does not answer within 0.5 s/ });
    await until('what it started is gone', () => isGone(Number(readFileSync(pid, 'utf8'))));
  });

  it('a program that prints without end is ended', async () => {
    await assert.rejects(slurm({ qstat: 'yes 7 RUNNING batch' }).status(), {
      message: /prints more than/,
    });
  });

  it('listings that come together are asked for once, but never before they came', async () => {
    const go = join(dir, 'go');
    const adapter = slurm({ qstat: `while [ ! -e '${go}' ]; do sleep 0.02; done` });
    const first = adapter.status();
    await until('the first is asked for', () => calls('qstat').length === 1);
    const later = [adapter.status(), adapter.status(), adapter.status()];
    writeFileSync(go, '');
    await Promise.all([first, ...later]);
    assert.equal(calls('qstat').length, 2);
  });

  it('tells of a job that is in no listing any more, and of none when a listing fails', async () => {
    const list = join(dir, 'list');
    const adapter = slurm({ qstat: `cat '${list}'`, submit: 'echo 9' });
    const ended: string[] = [];
    const end = adapter.onExit((id) => ended.push(id));
    await adapter.submit(owner, job());
    writeFileSync(list, '8 RUNNING batch\n9 PENDING batch\n');
    await adapter.status();
    writeFileSync(list, 'slurm_load_jobs error\n');
    await assert.rejects(adapter.status());
    assert.deepEqual(ended, []);
    writeFileSync(list, '8 RUNNING batch\n');
    await adapter.status();
    assert.deepEqual(ended, ['9']);
    writeFileSync(list, '');
    await adapter.status();
    assert.deepEqual(ended, ['9'], 'job 8 is not ours');
    end();
  });

  it('tells of the end of jobs that an agent before handed over, and of nothing that ended before', async () => {
    const list = join(dir, 'list');
    const before = slurm({ submit: `echo "$*" | grep -q name=two && echo 2 || echo 1` });
    for (const name of ['one', 'two'])
      await before.submit(owner, job({ attemptId: name, jobName: name }));
    const adapter = slurm({ qstat: `cat '${list}'` });
    const ended: string[] = [];
    const end = adapter.onExit((id) => ended.push(id));
    for (const listing of ['2 RUNNING batch\n', '']) {
      writeFileSync(list, listing);
      await adapter.status();
    }
    assert.deepEqual(ended, ['2']);
    end();
  });

  it('a refusal is told in its words, and the attempt may come again', async () => {
    const said = 'sbatch: error: Batch job submission failed: Invalid partition name specified';
    const accept = join(dir, 'accept');
    const submit = `[ -e '${accept}' ] && echo 7 && exit\n${says(said)}`;
    const adapter = slurm({ submit, find: 'echo asked' });
    await assert.rejects(adapter.submit(owner, job()), { code: 'TSI_FAILED', message: said });
    writeFileSync(accept, '');
    assert.equal(await adapter.submit(owner, job()), '7');
    assert.equal(await adapter.submit(owner, job()), '7');
    assert.equal(calls('submit').length, 2);
    assert.deepEqual(calls('find'), []);
  });

  it('asks for the job where sbatch cannot say whether it was taken', async () => {
    const mark = `sed -n 's/.*--comment=\\(tsi-[0-9]*\\).*/5|\\1/p' '${join(dir, 'submit')}.calls'`;
    const adapter = slurm({ submit: says(timedOut), find: mark });
    assert.equal(await adapter.submit(owner, job()), '5');
    assert.equal(await adapter.submit(owner, job()), '5');
    assert.equal(calls('submit').length, 1);
  });

  it('fails where Slurm turns out not to have it, after it was asked twice', async () => {
    const adapter = slurm({ submit: says(timedOut), find: 'true', find_ended: says('disabled') });
    await assert.rejects(adapter.submit(owner, job()), { message: timedOut });
    assert.equal(calls('find').length, 2);
  });

  it('asks after a crash before it submits, also those that have no record of the answer', async () => {
    const before = slurm({ submit: 'echo 6' });
    await before.submit(owner, job());
    const records = join(dir, 'state', 'slurm', 'batch');
    const [run = ''] = readdirSync(records).filter((name) => name.endsWith('.run'));
    writeFileSync(join(records, run), '');
    const find = `echo '4|other'; echo '6_[0-3]|tsi-${run.replace('.run', '')} for Bob'`;
    const next = slurm({ submit: 'echo 99', find });
    assert.equal(await next.submit(owner, job()), '6');
  });

  it('a submission that prints no id is a failure', async () => {
    const adapter = slurm({ submit: 'echo welcome', find: 'true', find_ended: 'true' });
    await assert.rejects(adapter.submit(owner, job()), { message: 'welcome' });
  });

  it('raw jobs without their file are refused', async () => {
    const adapter = slurm({ submit: 'echo 7' });
    await assert.rejects(adapter.submit(owner, job({ mode: 'raw' })), { message: /TSI_JOB_FILE/ });
    await assert.rejects(adapter.submit(owner, job({ mode: 'raw', jobFile: 'none' })), /ENOENT/);
    assert.deepEqual(calls('submit'), []);
  });

  it('leaves a job alone that has ended, and tells what else scancel says', async () => {
    const gone = 'scancel: error: Kill job error on job id 5: Invalid job id specified';
    await slurm({ abort: says(gone) }).abort(owner, '5');
    const other = 'scancel: error: Kill job error on job id 5: Access/permission denied';
    await assert.rejects(slurm({ abort: says(other) }).abort(owner, '5'), { message: other });
    assert.deepEqual(calls('abort'), ['5', '5']);
    await assert.rejects(slurm({ abort: 'true' }).abort(owner, '--user=x'), { code: 'TSI_FAILED' });
  });

  it('suspends the members of an array that run, and holds those that wait', async () => {
    const said = '27_0-1: No error\n27_2-5: Job is pending execution';
    const adapter = slurm({
      qstat: 'echo 27_0 RUNNING batch; echo "27_[2-5%2]" PENDING batch',
      suspend: says(said),
      hold: 'true',
    });
    await adapter.hold(owner, '27');
    assert.deepEqual([calls('suspend'), calls('hold')], [['27'], ['27']]);
  });

  it('has no budget where there are no accounts', async () => {
    assert.deepEqual(await slurm({ get_budget: says('disabled') }).budget(owner), []);
  });
});

function isGone(pid: number): boolean {
  return !existsSync(`/proc/${pid}`) || readFileSync(`/proc/${pid}/stat`, 'utf8').includes(' Z ');
}
