import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chownSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import {
  alice,
  isRoot,
  nobodyId,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { end, identity, openWorker, sessionTo, type RawWorker } from './raw-worker.js';

function mountSmall(dir: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,mode=777', 'none', dir], {
      stdio: 'ignore',
    });
    return true;
  } catch {
    return false;
  }
}

describe('the agent on the wire', () => {
  const scope = new Scope();
  let agent: AgentProcess;
  let worker: RawWorker;
  let dir: string;

  before(async () => {
    agent = await startAgent(scope);
    worker = await openWorker(scope, agent);
    dir = scratch(scope, nobodyId);
  });
  after(() => scope.close());

  const fresh = (): Promise<RawWorker> => openWorker(scope, agent);
  async function inStep(by: RawWorker): Promise<void> {
    const [got, expected] = await by.ask(['#TSI_PING', ''], `TSI_OK\n11.2.1\n${end}`);
    assert.equal(got, expected);
  }

  it('answers the session of the reference, byte for byte', async () => {
    const file = join(dir, 'in.txt');
    const exchanges: readonly (readonly [readonly string[], string])[] = [
      [['#TSI_PING', '#TSI_IDENTITY nobody NONE', ''], `TSI_OK\n11.2.1\n${end}`],
      [
        [
          '#!/bin/bash -l',
          '#TSI_EXECUTESCRIPT',
          '#TSI_SCRIPT',
          'echo "$USER/UNICORE_Jobs"',
          identity,
          '',
        ],
        `TSI_OK\n${alice.login}/UNICORE_Jobs\n\n${end}`,
      ],
      [
        ['#TSI_LS', '#TSI_LS_MODE A', `#TSI_FILE ${dir}/nothing`, '', identity, ''],
        `TSI_OK\nSTART_LISTING\nEND_LISTING\n${end}`,
      ],
      [
        [
          '#!/bin/bash -l',
          '#TSI_EXECUTESCRIPT',
          '#TSI_SCRIPT',
          `/bin/mkdir -p -m 750 '${dir}/uspace'`,
          identity,
          '',
        ],
        `TSI_OK\n\n${end}`,
      ],
      [
        [
          '#!/bin/bash',
          '#TSI_EXECUTESCRIPT',
          '#TSI_DISCARD_OUTPUT true',
          '#TSI_SCRIPT',
          'echo a',
          identity,
          '',
        ],
        `TSI_OK\n\n${end}`,
      ],
      [
        ['#TSI_GETSTATUSLISTING', '', '#TSI_IDENTITY unicore DEFAULT_GID', ''],
        `TSI_OK\nQSTAT\n\n${end}`,
      ],
      [['#TSI_NOSUCH', identity, ''], `TSI_FAILED: Unknown #TSI_* command\n${end}`],
    ];
    for (const [lines, expected] of exchanges) {
      const [got] = await worker.ask(lines, expected);
      assert.equal(got, expected);
    }
    worker.send(
      '#TSI_PUTFILECHUNK',
      '#TSI_FILESACTION 0',
      `#TSI_FILE ${file} 640`,
      '#TSI_LENGTH 3',
      '',
      identity,
      '',
    );
    assert.equal(await worker.reply(7 + end.length), `TSI_OK\n${end}`);
    worker.data.write('abc');
    assert.equal(await worker.reply(end.length), end);
    assert.equal(readFileSync(file, 'utf8'), 'abc');
    worker.send(
      '#TSI_GETFILECHUNK',
      `#TSI_FILE ${file}`,
      '#TSI_START 1',
      '#TSI_LENGTH 100',
      '',
      identity,
      '',
    );
    const announced = `TSI_OK\nTSI_LENGTH 2\n${end}${end}`;
    assert.equal(await worker.reply(announced.length), announced);
    assert.equal(await worker.bytes(2), 'bc');
  });

  it('says whom it runs as, and what a process list holds', async () => {
    const uid = `TSI_OK\n11.2.1\n running as UID [${process.getuid?.() ?? -1}]\n${end}`;
    const [got] = await worker.ask(['#TSI_PING_UID', identity, ''], uid);
    assert.equal(got, uid);
    const other = await fresh();
    other.send(
      '#TSI_GETPROCESSLISTING',
      '#TSI_PS touch /tmp/never',
      '#TSI_IDENTITY unicore NONE',
      '',
    );
    assert.match(await other.reply(60), /^TSI_OK\n {2}PID COMMAND\n\d+ /);
  });

  it('tells what UNICORE/X needs to log a user in by key', { skip: !isRoot }, async () => {
    const expected = `TSI_OK\nhome: /nonexistent\nstatus: OK\n${end}`;
    const [got] = await worker.ask(['#TSI_GET_USER_INFO', identity, ''], expected);
    assert.equal(got, expected);
  });

  it('knows $HOME, $USER and $LOGNAME in paths, at the ends of words only, unless they are literal', async () => {
    for (const name of [alice.login, '$USERDATA', '$USER']) writeFileSync(join(dir, name), name);
    const content = async (file: string, ...more: string[]): Promise<string> => {
      const by = await fresh();
      by.send(
        '#TSI_GETFILECHUNK',
        `#TSI_FILE ${file}`,
        '#TSI_START 0',
        '#TSI_LENGTH 100',
        ...more,
        identity,
        '',
      );
      assert.match(await by.reply(6), /TSI_OK/);
      const { size } = statSync(
        more.length > 0 ? file : file.replace(/\$(USER|LOGNAME)\b/, alice.login),
      );
      return by.bytes(size);
    };
    assert.equal(await content(`${dir}/$USER`), alice.login);
    assert.equal(await content(`${dir}/$LOGNAME`), alice.login);
    assert.equal(await content(`${dir}/$USERDATA`), '$USERDATA');
    assert.equal(await content(`${dir}/$USER`, '#TSI_LITERAL_PATH true'), '$USER');
  });

  it('refuses a chunk before any byte of it where the file cannot be opened', async () => {
    const expected = 'TSI_FAILED: ENOENT';
    worker.send(
      '#TSI_PUTFILECHUNK',
      '#TSI_FILE /nowhere/at/all 600',
      '#TSI_LENGTH 3',
      identity,
      '',
    );
    const rest = `: no such file or directory, open '/nowhere/at/all'\n${end}`;
    assert.equal(await worker.reply(expected.length + rest.length), expected + rest);
    await inStep(worker);
  });

  it('takes every announced byte though the disk is full, says so at the end, and stays in step', async (t) => {
    const small = join(dir, 'small');
    mkdirSync(small);
    if (!isRoot || !mountSmall(small)) {
      t.skip('no file system can be mounted here');
      return;
    }
    scope.defer(() => execFileSync('umount', ['--lazy', small]));
    const by = await fresh();
    by.send(
      '#TSI_PUTFILECHUNK',
      '#TSI_FILESACTION 0',
      `#TSI_FILE ${small}/f 600`,
      '#TSI_LENGTH 1000000',
      identity,
      '',
    );
    assert.equal(await by.reply(7 + end.length), `TSI_OK\n${end}`);
    by.data.write(Buffer.alloc(1_000_000, 'x'));
    const failure = `TSI_FAILED: ENOSPC: no space left on device, write\n${end}`;
    assert.equal(await by.reply(failure.length), failure);
    await inStep(by);
  });

  it('survives a client that vanishes in the middle of a chunk, and keeps what came', async () => {
    const by = await fresh();
    const file = join(dir, 'half');
    by.send(
      '#TSI_PUTFILECHUNK',
      '#TSI_FILESACTION 0',
      `#TSI_FILE ${file} 600`,
      '#TSI_LENGTH 1000',
      identity,
      '',
    );
    await by.reply(7 + end.length);
    by.data.write('half');
    await until('the half is there', () => readFileSync(file, 'utf8') === 'half');
    by.command.session?.destroy();
    await inStep(worker);
  });

  it('ends a worker whose data channel ends inside a chunk', async () => {
    const by = await fresh();
    by.send('#TSI_PUTFILECHUNK', `#TSI_FILE ${dir}/cut 600`, '#TSI_LENGTH 1000', identity, '');
    await by.reply(7 + end.length);
    by.data.end('half');
    assert.equal(await by.reply(1_000), '');
    await inStep(worker);
  });

  it('ends a worker that sends a message without end, and no other', async () => {
    const by = await fresh();
    const line = Buffer.alloc(1_048_576, 'x');
    for (let sent = 0; sent < 20; sent += 1) by.command.write(line);
    assert.equal(await by.reply(1), '');
    await inStep(worker);
  });

  const nonsense: readonly (readonly [string, readonly string[]])[] = [
    ['an empty message', ['']],
    [
      'a length below zero',
      [
        '#TSI_GETFILECHUNK',
        '#TSI_FILE /etc/passwd',
        '#TSI_START 0',
        '#TSI_LENGTH -5',
        identity,
        '',
      ],
    ],
    [
      'a length that is no number',
      ['#TSI_PUTFILECHUNK', '#TSI_FILE /nowhere/x 600', '#TSI_LENGTH 1e400', identity, ''],
    ],
    ['a listing mode that is none', ['#TSI_LS', '#TSI_LS_MODE X', '#TSI_FILE /', identity, '']],
    ['a command with a blank behind it', ['#TSI_PING ', identity, '']],
    ['a command in the script only', ['#TSI_SCRIPT', '#TSI_PING', identity, '']],
    ['a job without a directory', ['#TSI_SUBMIT', '#TSI_SCRIPT', 'id', identity, '']],
    ['a job id with a path in it', ['#TSI_ABORTJOB', '#TSI_BSSID ../../etc/passwd', identity, '']],
    ['bytes that are not UTF-8', ['\udcff', identity, '']],
  ];
  for (const [name, lines] of nonsense)
    it(`answers TSI_FAILED to ${name}, and goes on`, async () => {
      const by = await fresh();
      if (name.startsWith('bytes')) by.command.write(Buffer.from([0xff, 0xfe, 0x0a]));
      by.send(...lines);
      assert.equal(await by.reply(10), 'TSI_FAILED');
      by.send('#TSI_PING', '');
      await until('it pings', async () => (await by.reply(1)) === '2');
    });

  it('serves pipelined requests in order', async () => {
    const by = await fresh();
    by.command.write(`#TSI_PING\n${end}`.repeat(100));
    const expected = `TSI_OK\n11.2.1\n${end}`.repeat(100);
    assert.equal(await by.reply(expected.length), expected);
  });

  it('does not make others wait for one that reads nothing', async () => {
    const big = join(dir, 'big');
    writeFileSync(big, Buffer.alloc(4_000_000));
    if (isRoot) chownSync(big, nobodyId, nobodyId);
    const deaf = await fresh();
    for (let asked = 0; asked < 20; asked += 1)
      deaf.send(
        '#TSI_GETFILECHUNK',
        `#TSI_FILE ${big}`,
        '#TSI_START 0',
        '#TSI_LENGTH 4000000',
        identity,
        '',
      );
    await deaf.reply(10);
    await inStep(worker);
  });

  it('answers 404 to what it does not offer', async () => {
    const session = await sessionTo(scope, agent.socket);
    const status = (path: string): Promise<unknown> =>
      new Promise((resolve) => {
        const stream = session.request({ ':method': 'POST', ':path': path });
        stream.on('response', (headers) => resolve(headers[':status']));
        stream.on('error', () => undefined);
      });
    assert.equal(await status('/etc/passwd'), 404);
    assert.equal(await status('/worker/../../x/command'), 404);
    assert.equal(await status('/facts'), 404);
  });
});

describe('an agent for servers before 11', () => {
  it('leaves TSI_OK out where they do not expect it', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: ['tsi.version=10.4.0'] });
    const worker = await openWorker(scope, agent);
    for (const [lines, expected] of [
      [['#TSI_PING', ''], `10.4.0\n${end}`],
      [['#TSI_GETSTATUSLISTING', ''], `QSTAT\n\n${end}`],
      [['#TSI_EXECUTESCRIPT', '#TSI_SCRIPT', 'true', identity, ''], `TSI_OK\n\n${end}`],
    ] as const) {
      const [got] = await worker.ask(lines, expected);
      assert.equal(got, expected);
    }
  });
});
