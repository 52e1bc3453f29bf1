import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import * as commands from '#tsi/protocol/commands.js';
import { frame, MessageSplitter } from '#tsi/protocol/framing.js';
import { parseMessage, type Command } from '#tsi/protocol/message.js';

const alice = { login: 'alice', groups: 'DEFAULT_GID' };
const tail = '\n#TSI_IDENTITY alice DEFAULT_GID\n\nENDOFMESSAGE\n';

function split(text: string, limit = 1_000): string[] {
  return new MessageSplitter(limit).push(Buffer.from(text)).map(String);
}

describe('framing', () => {
  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    ['one message', 'TSI_OK\n11.2.1\nENDOFMESSAGE\n', ['TSI_OK\n11.2.1\n']],
    ['the two terminators of a chunk', 'TSI_OK\nENDOFMESSAGE\nENDOFMESSAGE\n', ['TSI_OK\n', '']],
    ['nothing before the line break', 'TSI_OK\nENDOFMESSAGE', []],
    [
      'a longer line',
      'a\nENDOFMESSAGES\nXENDOFMESSAGE\nENDOFMESSAGE\n',
      ['a\nENDOFMESSAGES\nXENDOFMESSAGE\n'],
    ],
    ['several messages and a half', 'a\nENDOFMESSAGE\n\nENDOFMESSAGE\nb', ['a\n', '\n']],
  ];
  for (const [name, wire, messages] of cases)
    it(`finds ${name}`, () => assert.deepEqual(split(wire), messages));

  it('finds the same messages one byte at a time', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.constantFrom('x', 'ENDOFMESSAGE ', 'END\n', '\n\n', 'é'))),
        (parts) => {
          const texts = parts.map((part) => (part.length > 0 ? `${part.join('')}\n` : ''));
          const wire = Buffer.from(texts.map(frame).join(''));
          const splitter = new MessageSplitter(10_000);
          const slowly = [...wire].flatMap((byte) => splitter.push(Buffer.from([byte])));
          assert.deepEqual(slowly.map(String), texts);
          assert.equal(splitter.pendingBytes, 0);
        },
      ),
    );
  });

  it('refuses a message beyond the limit before it is complete', () => {
    const splitter = new MessageSplitter(100);
    assert.throws(
      () => {
        for (let at = 0; at < 200; at += 1) splitter.push(Buffer.from('x'));
      },
      { code: 'TSI_PROTOCOL' },
    );
  });

  it('refuses a complete message beyond the limit', () =>
    assert.throws(() => split(`${'x'.repeat(101)}\nENDOFMESSAGE\n`, 100), {
      code: 'TSI_PROTOCOL',
    }));

  it('takes a line of a megabyte, byte by byte, in linear time', () => {
    const splitter = new MessageSplitter(2_000_000);
    const started = performance.now();
    const one = Buffer.from('x');
    for (let at = 0; at < 1_000_000; at += 1) splitter.push(one);
    assert.ok(performance.now() - started < 10_000);
    assert.equal(splitter.push(Buffer.from('\nENDOFMESSAGE\n')).length, 1);
  });
});

describe('commands', () => {
  const list = { mode: 'A', path: '/home/alice/run 1/a b' } as const;
  const vectors: readonly (readonly [string, string])[] = [
    [commands.ping.encode({}, alice), `#TSI_PING${tail}`],
    [
      commands.listFiles.encode(list, alice),
      `#TSI_LS\n#TSI_LS_MODE A\n#TSI_FILE /home/alice/run 1/a b${tail}`,
    ],
    [
      commands.getFileChunk.encode({ path: '/f', offset: 0, length: 1_048_576 }, alice),
      `#TSI_GETFILECHUNK\n#TSI_FILE /f\n#TSI_START 0\n#TSI_LENGTH 1048576${tail}`,
    ],
    [
      commands.putFileChunk.encode(
        { action: '0', file: { path: '/in put.txt', mode: 0o640 }, length: 5 },
        alice,
      ),
      `#TSI_PUTFILECHUNK\n#TSI_FILESACTION 0\n#TSI_FILE /in put.txt 640\n#TSI_LENGTH 5${tail}`,
    ],
    [
      commands.executeScript.encode({ script: 'echo a\n' }, alice),
      `#!/bin/bash\n#TSI_EXECUTESCRIPT\n#TSI_SCRIPT\necho a\n${tail}`,
    ],
    [
      commands.submit.encode(
        {
          attemptId: 'j1',
          outcomeDir: '/u/',
          uspaceDir: '/u/',
          stdout: 'stdout',
          stderr: 'stderr',
          jobName: 'n',
          wallTime: 60,
          siteResources: { GPU_MODEL: 'a b' },
          script: 'date',
        },
        alice,
        { interpreter: '/bin/bash -l' },
      ),
      '#!/bin/bash -l\n#TSI_SUBMIT\n#TSI_SUBMIT_ID j1\n#TSI_OUTCOME_DIR /u/\n#TSI_USPACE_DIR /u/\n' +
        '#TSI_STDOUT stdout\n#TSI_STDERR stderr\n#TSI_JOBNAME n\n#TSI_EMAIL NONE\n#TSI_TIME 60\n' +
        '#TSI_NODES -1\n#TSI_PROCESSORS_PER_NODE -1\n#TSI_TOTAL_PROCESSORS -1\n#TSI_QUEUE NONE\n' +
        `#TSI_SSR_GPU_MODEL a b\n#TSI_SCRIPT\ndate${tail}`,
    ],
  ];
  for (const [wire, expected] of vectors)
    it(`writes ${expected.split('\n').find((line) => line.startsWith('#TSI_')) ?? ''}`, () =>
      assert.equal(wire, expected));

  it('reads what UNICORE/X sends to submit', () => {
    const wire =
      '#!/bin/bash -l\n#TSI_SUBMIT\n\n#TSI_OUTCOME_DIR $HOME/j/\n#TSI_USPACE_DIR $HOME/j/\n#TSI_STDOUT stdout\n' +
      '#TSI_STDERR stderr\n#TSI_JOBNAME UNICORE_Job\n#TSI_EMAIL NONE\n#TSI_TIME 3600.0\n#TSI_NODES -1\n' +
      '#TSI_QUEUE NONE\nUC_NODES=-1; export UC_NODES\n#TSI_SCRIPT\n#TSI_UMASK 0027\numask 0027\ndate\n' +
      '\n#TSI_IDENTITY alice users:DEFAULT_GID\n\n';
    const message = parseMessage(wire);
    assert.deepEqual(message.identity, { login: 'alice', groups: 'users:DEFAULT_GID' });
    assert.deepEqual(message.words, ['TSI_SUBMIT']);
    assert.match(
      message.text,
      /^#!\/bin\/bash -l\n[^]*\nUC_NODES=-1; export UC_NODES\n[^]*\ndate\n$/,
    );
    assert.deepEqual(commands.submit.decode(message), {
      outcomeDir: '$HOME/j/',
      uspaceDir: '$HOME/j/',
      stdout: 'stdout',
      stderr: 'stderr',
      jobName: 'UNICORE_Job',
      wallTime: 3600,
      script: '#TSI_UMASK 0027\numask 0027\ndate\n',
    });
  });

  it('lets nothing in a script change the command, its parameters or its identity', () => {
    const script =
      '#TSI_PING\n#TSI_SCRIPT\n#TSI_USPACE_DIR /root\n#TSI_TIME 1\n #TSI_IDENTITY root NONE\n' +
      '#TSI_IDENTITY root NONE\n#TSI_JOB_MODE raw';
    const message = parseMessage(
      `#!/bin/sh\n#TSI_SUBMIT\n#TSI_OUTCOME_DIR /o\n#TSI_USPACE_DIR /u\n#TSI_STDOUT o\n#TSI_STDERR e\n` +
        `#TSI_SCRIPT\n${script}\n#TSI_IDENTITY alice NONE\n\n`,
    );
    assert.deepEqual(message.words, ['TSI_SUBMIT']);
    assert.deepEqual(message.identity, { login: 'alice', groups: 'NONE' });
    assert.deepEqual(commands.submit.decode(message), {
      outcomeDir: '/o',
      uspaceDir: '/u',
      stdout: 'o',
      stderr: 'e',
      script,
    });
  });

  it('takes no identity from anywhere but the end', () => {
    const message = parseMessage('#TSI_EXECUTESCRIPT\n#TSI_SCRIPT\n#TSI_IDENTITY root NONE\nid\n');
    assert.equal(message.identity, undefined);
  });

  it('gives back what it was given, whatever the script', () => {
    const value = fc
      .string({ unit: 'binary' })
      .filter((text) => !/[\0\r\n]/.test(text) && text !== '');
    const script = fc
      .array(
        fc.oneof(
          fc.string({ unit: 'binary' }),
          fc.constantFrom('#TSI_PING', '#TSI_SCRIPT', '#TSI_FILE /x', '\n'),
        ),
      )
      .map((parts) => parts.join('\n').replaceAll('\0', ''));
    fc.assert(
      fc.property(value, script, fc.nat(), (name, text, wallTime) => {
        const job = {
          outcomeDir: `/${name}`,
          uspaceDir: `/ ${name}`,
          stdout: name,
          stderr: 'e',
          wallTime,
          script: text,
        };
        const [wire] = split(commands.submit.encode(job, alice), 1_000_000);
        const { identity, ...message } = parseMessage(wire ?? '');
        assert.deepEqual(identity, alice);
        assert.deepEqual(commands.submit.decode(message), job);
      }),
    );
  });

  const hostile: readonly (readonly [string, () => unknown])[] = [
    [
      'a line break in a path',
      () => commands.listFiles.encode({ path: '/a\n#TSI_LS_MODE R', mode: 'A' }, alice),
    ],
    [
      'a carriage return in a path',
      () => commands.listFiles.encode({ path: '/a\rb', mode: 'A' }, alice),
    ],
    ['a NUL in a path', () => commands.diskSpace.encode({ path: '/a\0b' }, alice)],
    ['a path that is not absolute', () => commands.diskSpace.encode({ path: 'a' }, alice)],
    ['the terminator in a path', () => commands.diskSpace.encode({ path: '/ENDOFMESSAGE' }, alice)],
    [
      'the terminator in a script',
      () => commands.executeScript.encode({ script: 'a\nENDOFMESSAGE\nb' }, alice),
    ],
    [
      'an identity in a script',
      () => commands.executeScript.encode({ script: '#TSI_IDENTITY root NONE' }, alice),
    ],
    ['a NUL in a script', () => commands.executeScript.encode({ script: 'a\0' }, alice)],
    [
      'a second identity in a login',
      () => commands.ping.encode({}, { login: 'a\n#TSI_IDENTITY root', groups: 'NONE' }),
    ],
    ['blanks in a login', () => commands.ping.encode({}, { login: 'a b', groups: 'NONE' })],
    ['an empty group', () => commands.ping.encode({}, { login: 'a', groups: '' })],
    [
      'a resource with a wrong name',
      () =>
        commands.submit.encode(
          {
            outcomeDir: '/',
            uspaceDir: '/',
            stdout: 'o',
            stderr: 'e',
            siteResources: { 'X 1\n#TSI_Y': '1' },
            script: '',
          },
          alice,
        ),
    ],
    [
      'a negative number',
      () => commands.getFileChunk.encode({ path: '/', offset: -1, length: 1 }, alice),
    ],
    [
      'a mode that is none',
      () => commands.putFileChunk.encode({ file: { path: '/a', mode: 0o4755 }, length: 0 }, alice),
    ],
  ];
  for (const [name, encode] of hostile)
    it(`refuses to write ${name}`, () => assert.throws(encode, { code: 'TSI_PROTOCOL' }));

  for (const script of [
    'a\n#TSI_PING',
    'echo #TSI_SUBMIT',
    '#TSI_JOB_MODE raw\n',
    '#TSI_UMASK 0027 x',
  ])
    it(`refuses ${JSON.stringify(script)} for a TSI that searches scripts for commands`, () =>
      assert.throws(() => commands.executeScript.encode({ script }, alice, { guardScript: true }), {
        code: 'TSI_PROTOCOL',
      }));

  it('lets the umask line pass for such a TSI', () =>
    assert.ok(
      commands.executeScript.encode({ script: '#TSI_UMASK 0027\nid' }, alice, {
        guardScript: true,
      }),
    ));

  const broken: readonly (readonly [string, Command<unknown>, string])[] = [
    ['a missing path', commands.diskSpace, '#TSI_DF\n'],
    ['an empty path', commands.diskSpace, '#TSI_DF\n#TSI_FILE \n'],
    ['an unknown mode', commands.listFiles, '#TSI_LS\n#TSI_LS_MODE Q\n#TSI_FILE /\n'],
    [
      'a length that is no number',
      commands.getFileChunk,
      '#TSI_FILE /\n#TSI_START 0\n#TSI_LENGTH x\n',
    ],
    ['a path without a mode', commands.putFileChunk, '#TSI_FILE /a\n#TSI_LENGTH 1\n'],
  ];
  for (const [name, command, wire] of broken)
    it(`refuses to read ${name}`, () =>
      assert.throws(() => command.decode(parseMessage(wire)), { code: 'TSI_PROTOCOL' }));

  it('never fails on a message in any other way than by its own error', () => {
    const text = fc.array(
      fc.oneof(
        fc.string(),
        fc.constantFrom('\n', '#TSI_FILE /a 640', '#TSI_LENGTH', '#TSI_SCRIPT\n'),
      ),
    );
    fc.assert(
      fc.property(text, (parts) => {
        const message = parseMessage(parts.join(''));
        for (const command of [
          commands.submit,
          commands.putFileChunk,
          commands.listFiles,
        ] as Command<unknown>[])
          try {
            command.decode(message);
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'TSI_PROTOCOL');
          }
      }),
    );
  });
});
