import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import {
  alice,
  clientOf,
  isRoot,
  nobodyId,
  processesWith,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';

const modes = [
  { name: 'an agent run by root', ordinary: false, skip: isRoot ? false : 'needs root' },
  { name: 'an agent run by an ordinary user', ordinary: true, skip: false },
] as const;

for (const { name, ordinary, skip } of modes)
  describe(name, { skip }, () => {
    const scope = new Scope();
    let agent: AgentProcess;
    let tsi: TsiClient;
    let dir: string;
    let attempts = 0;

    before(async () => {
      agent = await startAgent(scope, { ordinary });
      tsi = await clientOf(scope, agent);
      dir = scratch(scope, nobodyId);
    });
    after(() => scope.close());

    function job(script: string, more: Partial<Parameters<TsiClient['submit']>[1]> = {}) {
      attempts += 1;
      const uspaceDir = join(dir, `job ${attempts}'s`);
      mkdirSync(uspaceDir);
      if (isRoot) chownSync(uspaceDir, nobodyId, nobodyId);
      return {
        uspaceDir,
        outcomeDir: uspaceDir,
        stdout: 'std out',
        stderr: 'stderr',
        jobName: 'test',
        attemptId: `attempt-${attempts}`,
        script,
        ...more,
      };
    }
    const gone = (id: string) => until('the job ends', async () => !(await tsi.status()).has(id));
    const output = ({ uspaceDir }: { uspaceDir: string }): string =>
      readFileSync(join(uspaceDir, 'std out'), 'utf8');

    it('answers a ping with its version', async () => {
      assert.equal(await tsi.ping(), '11.2.1');
    });

    it('runs a script as the user, in a clean environment', async () => {
      const printed = await tsi.execute(
        alice,
        'id -u; id -G; echo "$HOME $USER"; env; ulimit -Hc; ls /proc/self/fd | wc -l',
      );
      const [uid, groups] = printed.split('\n');
      if (isRoot) assert.deepEqual([uid, groups], ['65534', '65534']);
      assert.doesNotMatch(printed, /AGENT_SECRET/);
    });

    it('returns stdout and stderr in the order in which they were written, untrimmed', async () => {
      assert.equal(await tsi.execute(alice, 'echo a; echo b >&2; printf " c "'), 'a\nb\n c ');
    });

    it('tells the exit status and the output of a script that fails', async () => {
      await assert.rejects(tsi.execute(alice, 'echo why; exit 3'), {
        code: 'TSI_FAILED',
        message: /code 3: why/,
      });
    });

    it('runs a script far beyond the argument limit, from first line to last', async () => {
      const filler = `: ${'x'.repeat(998)}\n`.repeat(1_000);
      const printed = await tsi.execute(alice, `echo first\n${filler}read line; echo "last $line"`);
      assert.equal(printed, 'first\nlast \n');
    });

    it('does not wait for what a script leaves in the background', async () => {
      const started = performance.now();
      assert.equal(await tsi.execute(alice, 'sleep 30 & echo done'), 'done\n');
      assert.ok(performance.now() - started < 10_000);
    });

    it('keeps output that looks like the end of a message inside its reply', async () => {
      const printed = await tsi.execute(
        alice,
        'end=ENDOF; printf "${end}MESSAGE\\nTSI_OK\\n9.9.9\\n${end}MESSAGE\\n"',
      );
      assert.equal(printed, ' ENDOFMESSAGE\nTSI_OK\n9.9.9\n ENDOFMESSAGE\n');
      assert.equal(await tsi.ping(), '11.2.1');
    });

    it('answers with replacement characters where output is not UTF-8', async () => {
      assert.equal(await tsi.execute(alice, "printf 'a\\377b'"), 'a\ufffdb');
    });

    it('runs a script that holds the lines of every command for what it is', async () => {
      const script = '#TSI_PING\n#TSI_SUBMIT\n#TSI_SCRIPT\necho ran';
      assert.equal(await tsi.execute(alice, script), 'ran\n');
    });

    it('kills a script whose caller gives up', async () => {
      const marker = `sleep 4${process.pid}`;
      const control = new AbortController();
      const running = tsi.execute(alice, `${marker}; true`, { signal: control.signal });
      await until(
        'the script runs',
        async () => (await processesWith(marker.replace(' ', '\0'))).length > 0,
      );
      control.abort();
      await assert.rejects(running, { name: 'AbortError' });
      await until(
        'the script is gone',
        async () => (await processesWith(marker.replace(' ', '\0'))).length === 0,
      );
    });

    it('writes and reads files of several chunks byte for byte, with the mode asked for', async () => {
      const path = join(dir, "a b'$HOME \u00e9");
      const content = Buffer.alloc(2_500_000, 'abcdefg');
      assert.equal(
        await tsi.write(alice, path, Readable.from([content]), { mode: 0o640 }),
        2_500_000,
      );
      assert.ok(content.equals(await buffer(tsi.read(alice, path))));
      const stat = statSync(path);
      assert.equal(stat.mode & 0o777, 0o640);
      if (isRoot) assert.equal(stat.uid, nobodyId);
      const part = await buffer(tsi.read(alice, path, { offset: 1_048_570, length: 10 }));
      assert.ok(content.subarray(1_048_570, 1_048_580).equals(part));
    });

    it('appends, truncates and writes nothing', async () => {
      const path = join(dir, 'grown');
      await tsi.write(alice, path, Readable.from(['ab']));
      await tsi.write(alice, path, Readable.from(['cd']), { append: true });
      assert.equal(String(await buffer(tsi.read(alice, path))), 'abcd');
      assert.equal(await tsi.write(alice, path, Readable.from([])), 0);
      assert.equal(statSync(path).size, 0);
      assert.equal((await buffer(tsi.read(alice, path))).length, 0);
    });

    it('reads files that tell no size, and nothing past the end', async () => {
      assert.match(String(await buffer(tsi.read(alice, '/proc/self/status'))), /^Name:/);
      const path = join(dir, 'short');
      writeFileSync(path, 'abc', { mode: 0o644 });
      assert.equal((await buffer(tsi.read(alice, path, { offset: 9 }))).length, 0);
    });

    it('refuses to read or write what is not a regular file, and is not held up by it', async () => {
      const fifo = join(dir, 'fifo');
      execFileSync('mkfifo', ['-m', '666', fifo]);
      await assert.rejects(buffer(tsi.read(alice, fifo)), { code: 'TSI_FAILED' });
      await assert.rejects(tsi.write(alice, fifo, Readable.from(['x'])), { code: 'TSI_FAILED' });
      await assert.rejects(buffer(tsi.read(alice, dir)), { code: 'TSI_FAILED' });
    });

    it(
      'takes all bytes of a chunk that it cannot store, and stays in step',
      { skip: !existsSync('/dev/full') },
      async () => {
        const path = join(dir, 'limited');
        const script = `ulimit -f 1; exec 2>/dev/null; head -c 4096 /dev/zero > '${path}'`;
        await tsi.execute(alice, script).catch(() => undefined);
        await assert.rejects(tsi.write(alice, '/nowhere/at/all', Readable.from(['x'])), {
          code: 'TSI_FAILED',
        });
        assert.equal(await tsi.ping(), '11.2.1');
      },
    );

    it('lists itself, children and all below', async () => {
      const root = join(dir, 'tree');
      mkdirSync(join(root, 'sub'), { recursive: true });
      writeFileSync(join(root, 'sub', 'a b'), '12345');
      chmodSync(join(root, 'sub', 'a b'), 0o604);
      symlinkSync('..', join(root, 'sub', 'loop'));
      symlinkSync('/nowhere', join(root, 'dangling'));
      const paths = async (mode: 'A' | 'N' | 'R') =>
        (await tsi.list(alice, root, mode)).map(({ path }) => path.slice(root.length)).sort();
      assert.deepEqual(await paths('A'), ['']);
      assert.deepEqual(await paths('N'), ['/sub']);
      assert.deepEqual(await paths('R'), ['/sub', '/sub/a b', '/sub/loop']);
      const [file] = await tsi.list(alice, join(root, 'sub', 'a b'), 'N');
      assert.equal(file?.sizeBytes, 5);
      assert.equal(file.permissions, 'rw----r--');
      assert.equal(file.isDirectory, false);
    });

    it('lists nothing for a path that does not exist', async () => {
      assert.deepEqual(await tsi.list(alice, '/nowhere/at/all', 'A'), []);
    });

    it('prints the number of an owner without a name', { skip: !isRoot }, async () => {
      const path = join(dir, 'foreign');
      writeFileSync(path, '');
      chownSync(path, 54_321, 54_322);
      const [file] = await tsi.list(alice, path, 'A');
      assert.deepEqual([file?.owner, file?.group], ['54321', '54322']);
    });

    it('leaves names that are not UTF-8 out of a listing', async () => {
      const root = join(dir, 'names');
      mkdirSync(root);
      writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]), '');
      writeFileSync(`${root}/two\nlines`, '');
      const found = await tsi.list(alice, root, 'N');
      assert.deepEqual(
        found.map(({ path }) => path),
        [`${root}/two?lines`],
      );
    });

    it('tells the space behind a path, whatever is in its name', async () => {
      const odd = join(dir, 'a $(touch b) `id`; "');
      mkdirSync(odd);
      const { totalBytes, freeBytes } = await tsi.space(alice, odd);
      assert.ok(totalBytes > 0 && freeBytes >= 0 && freeBytes <= totalBytes);
      assert.ok(!existsSync(join(dir, 'b')));
      await assert.rejects(tsi.space(alice, '/nowhere'), { code: 'TSI_FAILED' });
    });

    it('runs a job from its start to its exit code, in a directory with blanks and quotes', async () => {
      const request = job('umask 0027\npwd; id -u; umask; echo oops >&2\nexit 3');
      const id = await tsi.submit(alice, request);
      await gone(id);
      const [where, uid, umask] = output(request).split('\n');
      assert.equal(where, request.uspaceDir);
      if (isRoot) assert.equal(uid, String(nobodyId));
      assert.equal(umask, '0027');
      const modeOf = (file: string): number => statSync(join(request.uspaceDir, file)).mode & 0o777;
      assert.equal(modeOf('std out'), 0o640);
      assert.equal(modeOf(`UNICORE_Job_${id}`), 0o700);
      const details = JSON.parse(await tsi.details(alice, id)) as Record<string, unknown>;
      assert.equal(details['ExitCode'], 3);
      assert.equal(details['JobState'], 'COMPLETED');
    });

    it('lists a job while it runs, and as suspended while it is stopped', async () => {
      const request = job('while [ ! -e go ]; do sleep 0.05; done');
      const id = await tsi.submit(alice, request);
      assert.deepEqual((await tsi.status()).get(id)?.state, 'RUNNING');
      // listed from its acceptance on, a job has a process a moment later
      const pid = await until('it has a process', async () => {
        const { Pid } = JSON.parse(await tsi.details(alice, id)) as { Pid?: number };
        return Pid;
      });
      process.kill(pid, 'SIGSTOP');
      await until(
        'it is suspended',
        async () => (await tsi.status()).get(id)?.state === 'SUSPENDED',
      );
      process.kill(pid, 'SIGCONT');
      writeFileSync(join(request.uspaceDir, 'go'), '');
      await gone(id);
    });

    it('runs an attempt once, however often and however soon it is submitted', async () => {
      const request = job('echo x >> count; sleep 0.2');
      const ids = await Promise.all([1, 2, 3].map(() => tsi.submit(alice, request)));
      assert.equal(new Set(ids).size, 1);
      await gone(ids[0]!);
      assert.equal(await tsi.submit(alice, request), ids[0]);
      assert.equal(readFileSync(join(request.uspaceDir, 'count'), 'utf8'), 'x\n');
    });

    it('refuses a job in a directory that does not exist, and forgets the attempt', async () => {
      const request = job('true');
      const wrong = { ...request, uspaceDir: '/nowhere', outcomeDir: '/nowhere' };
      await assert.rejects(tsi.submit(alice, wrong), { code: 'TSI_FAILED' });
      await gone(await tsi.submit(alice, request));
    });

    it('does not give a job the shell lines or the output of another', async () => {
      const first = job('echo one; sleep 0.1');
      const second = job('echo two');
      const ids = await Promise.all([tsi.submit(alice, first), tsi.submit(alice, second)]);
      await Promise.all(ids.map(gone));
      assert.deepEqual([output(first), output(second)], ['one\n', 'two\n']);
    });

    it('ends a job with all its children, also those that ignore signals or made their own group', async () => {
      const marker = `31${process.pid}${ordinary ? 1 : 2}`;
      const request = job(
        `trap '' TERM; sleep ${marker} & timeout 1000 sleep ${marker} & (trap '' TERM; exec sleep ${marker}) & wait`,
      );
      const id = await tsi.submit(alice, request);
      const living = () => processesWith(`sleep\0${marker}`);
      await until('its children run', async () => (await living()).length >= 3);
      await tsi.abort(alice, id);
      assert.deepEqual(await living(), []);
      assert.equal((await tsi.status()).has(id), false);
      await tsi.abort(alice, id);
    });

    it('ends a job that was submitted this moment', async () => {
      for (let round = 0; round < 5; round += 1) {
        const request = job('sleep 600; touch survived');
        const id = await tsi.submit(alice, request);
        await tsi.abort(alice, id);
        await gone(id);
        assert.deepEqual(await processesWith(`UNICORE_Job_${id}`), []);
      }
    });

    it('ends a job at its wall time', async () => {
      const request = job('sleep 600', { wallTime: 1 });
      const id = await tsi.submit(alice, request);
      await gone(id);
      const { ExitCode } = JSON.parse(await tsi.details(alice, id)) as { ExitCode: number };
      assert.equal(ExitCode, 124);
    });

    it('refuses to abort or describe a job that it does not know', async () => {
      await assert.rejects(tsi.details(alice, '12345'), { code: 'TSI_FAILED' });
    });

    it('keeps its jobs over kill -9: they run on, are listed, end, and are not run again', async () => {
      const own = new Scope();
      try {
        const first = await startAgent(own, { ordinary });
        const one = await clientOf(own, first);
        const request = job('echo x >> count; while [ ! -e go ]; do sleep 0.05; done; exit 5');
        const id = await one.submit(alice, request);
        first.child.kill('SIGKILL');
        await once(first.child, 'exit');
        const second = await startAgent(own, { ordinary, dir: first.dir });
        const two = await clientOf(own, second);
        assert.equal((await two.status()).get(id)?.state, 'RUNNING');
        assert.equal(await two.submit(alice, request), id);
        writeFileSync(join(request.uspaceDir, 'go'), '');
        await until('it ends', async () => !(await two.status()).has(id));
        const { ExitCode } = JSON.parse(await two.details(alice, id)) as { ExitCode: number };
        assert.equal(ExitCode, 5);
        assert.equal(readFileSync(join(request.uspaceDir, 'count'), 'utf8'), 'x\n');
      } finally {
        await own.close();
      }
    });

    it('aborts a job that an agent before it started', async () => {
      const own = new Scope();
      try {
        const first = await startAgent(own, { ordinary });
        const request = job('sleep 600');
        const id = await (await clientOf(own, first)).submit(alice, request);
        first.child.kill('SIGKILL');
        await once(first.child, 'exit');
        const tsi2 = await clientOf(own, await startAgent(own, { ordinary, dir: first.dir }));
        await tsi2.abort(alice, id);
        assert.equal((await tsi2.status()).size, 0);
      } finally {
        await own.close();
      }
    });
  });
