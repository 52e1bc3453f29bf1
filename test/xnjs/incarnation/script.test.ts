import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import type { IdbApplication } from '#imagerepo/contract.js';
import { idbOf } from '#xnjs/idb/idb.js';
import { incarnate } from '#xnjs/incarnation/incarnate.js';
import { resolveApplication } from '#xnjs/incarnation/application.js';
import { abortMarker, commandScript } from '#xnjs/incarnation/script.js';
import { parseDescription } from '#xnjs/job/description.js';

const limits = { cpus: 2, memoryBytes: 1024 ** 3 };
let workingDirectory = '';

beforeEach(() => {
  workingDirectory = mkdtempSync(join(tmpdir(), "vsite script's $HOME "));
});
afterEach(() => rmSync(workingDirectory, { recursive: true, force: true }));

/** What a process can be given: no NUL, no half of a surrogate pair. */
function wellFormed(text: string): string {
  return Buffer.from(text.replaceAll('\0', '')).toString();
}

type Outcome = { stdout: string; stderr: string; exitCode: string | undefined };

function script(description: Record<string, unknown>, applications: IdbApplication[] = []): string {
  const idb = idbOf({ applications, limits });
  const facts = {
    workingDirectory,
    userDn: 'CN=A "B" $USER',
    defaultUmask: '077',
    environment: {},
  };
  return incarnate(parseDescription(description), idb, facts).submission!.script;
}

/** Runs the generated script with a real bash. */
function run(description: Record<string, unknown>, applications: IdbApplication[] = []): Outcome {
  return runScript(script(description, applications));
}

function runScript(text: string, env: Record<string, string> = {}): Outcome {
  const { stdout, stderr } = spawnSync('/bin/bash', ['-c', text], {
    encoding: 'utf8',
    cwd: '/',
    env: { ...process.env, ...env },
  });
  return { stdout, stderr, exitCode: fileText('UNICORE_SCRIPT_EXIT_CODE') };
}

function fileText(name: string): string | undefined {
  const path = join(workingDirectory, name);
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
}

describe('the job script', () => {
  it('runs in the working directory with its variables, umask and `.` on the path', () => {
    writeFileSync(join(workingDirectory, 'tool'), '#!/bin/sh\numask; pwd; env; exit 4\n', {
      mode: 0o600,
    });
    const { stdout, exitCode } = run({
      Executable: 'tool',
      Umask: '027',
      Resources: { Runtime: '10m', Nodes: '1', CPUs: 2, Memory: '512M', CPUsPerNode: 1 },
    });
    assert.match(stdout, /^0027\n/);
    assert.equal(stdout.split('\n')[1], workingDirectory);
    for (const line of [
      `UC_WORKING_DIRECTORY=${workingDirectory}/`,
      `UC_OUTPUT_DIRECTORY=${workingDirectory}/`,
      'UC_EXECUTABLE=tool',
      'UC_USERDN=CN=A "B" $USER',
      'UC_NODES=1',
      'UC_PROCESSORS_PER_NODE=1',
      'UC_TOTAL_PROCESSORS=2',
      'UC_RUNTIME=600',
      'UC_MEMORY_PER_NODE=512',
    ])
      assert.ok(stdout.includes(`\n${line}\n`), line);
    assert.equal(exitCode, '4\n');
  });

  it('hands over every environment value and argument as it is', () => {
    const value = fc.string({ unit: 'binary', maxLength: 60 }).map((text) => wellFormed(text));
    fc.assert(
      fc.property(value, value, (environment, argument) => {
        const plain = argument.replaceAll('$', '');
        const { stdout, exitCode } = run({
          Executable: String.raw`printf '%s\0%s\0' "$VALUE"`,
          Environment: { VALUE: environment },
          Arguments: [plain],
        });
        assert.deepEqual(stdout.split('\0'), [environment, plain, '']);
        assert.equal(exitCode, '0\n');
      }),
      { numRuns: 60 },
    );
  });

  it('expands variables in arguments at run time, also those that the prologue sets', () => {
    const application: IdbApplication = {
      Name: 'A',
      Version: '1',
      Executable: "/usr/bin/printf '%s|'",
      Arguments: ['--in=$IN?', '--size=${SIZE}?', '$LATE'],
      Environment: { LATE: 'x', PATH: '/opt/a/bin:$PATH', IN: 'default' },
      Prologue: ['LATE="a  b"'],
    };
    const { stdout } = run(
      {
        ApplicationName: 'A',
        Parameters: { IN: 'my file' },
        Arguments: ['$HOME?', '*'],
        Environment: ['HOME=h'],
      },
      [application],
    );
    assert.equal(stdout, '--in=my file|a  b|h?|*|');
  });

  it('reads standard input from a file of the job', () => {
    writeFileSync(join(workingDirectory, "in put's"), 'text');
    assert.equal(run({ Executable: 'cat', Stdin: "in put's" }).stdout, 'text');
  });

  const inside = { RunUserPrecommandOnLoginNode: false, RunUserPostcommandOnLoginNode: 'false' };
  const endings: [string, Record<string, unknown>, string, string][] = [
    ['a pre-command that exits', { 'User precommand': 'exit 7', Executable: 'echo no' }, '7\n', ''],
    [
      'a pre-command that fails, inside the script',
      { 'User precommand': 'false', Executable: 'echo yes' },
      '0\n',
      'yes\n',
    ],
    [
      'a pre-command with a syntax error',
      { 'User precommand': ['echo "open', ')'], Executable: 'echo yes' },
      '0\n',
      'yes\n',
    ],
    ['an executable with a syntax error', { Executable: "echo 'open" }, '2\n', ''],
    [
      'a pre-command with a trap of its own',
      { 'User precommand': "trap 'exit 9' EXIT; exit 1" },
      '9\n',
      '',
    ],
    [
      'a pre-command that replaces the shell',
      { 'User precommand': 'exec sh -c "exit 5"' },
      '5\n',
      '',
    ],
    ['set -e', { 'User precommand': 'set -e', Executable: 'exit 6' }, '6\n', ''],
    ['a missing executable', { Executable: 'no-such-command' }, '127\n', ''],
    ['an executable killed by a signal', { Executable: 'sh -c "kill -9 \\$\\$"' }, '137\n', ''],
    [
      'a post-command, which does not change it',
      { Executable: '(exit 3)', 'User postcommand': ['echo $UC_EXIT_CODE', 'exit 8'] },
      '3\n',
      '3\n',
    ],
    ['a pre-command alone', { 'User precommand': 'echo alone' }, '0\n', 'alone\n'],
    [
      'a pre-command that changes directory',
      { 'User precommand': 'cd /', Executable: 'pwd' },
      '0\n',
      '/\n',
    ],
  ];
  for (const [what, description, exitCode, stdout] of endings)
    it(`writes the exit code after ${what}`, () => {
      const outcome = run({ ...inside, ...description });
      assert.equal(outcome.exitCode, exitCode, outcome.stderr);
      assert.equal(outcome.stdout, stdout);
    });

  it('leaves commands out that run on the login node', () => {
    const { stdout } = run({
      Executable: 'echo main',
      'User precommand': 'echo pre',
      'User postcommand': 'echo post',
    });
    assert.equal(stdout, 'main\n');
  });

  it('keeps the code of the task that failed, whichever of an array ends last', () => {
    const task = (number: string) =>
      runScript(
        script({
          Executable: 'echo "task $UC_ARRAY_TASK_ID"; exit $((UC_ARRAY_TASK_ID == 1 ? 3 : 0))',
          Resources: { ArraySize: '2' },
        }),
        { SLURM_ARRAY_TASK_ID: number },
      );
    assert.deepEqual([task('0').stdout, task('0').exitCode], ['task 0\n', '0\n']);
    assert.equal(task('1').exitCode, '3\n');
    assert.equal(task('2').exitCode, '3\n');
  });

  const commands: [string, string, string, string][] = [
    ['a command', 'echo "$UC_EXIT_CODE $V"; pwd', '0\n', `4 it's\n`],
    ['a command that exits', 'exit 7', '7\n', ''],
    ['a command with a syntax error', 'echo "open', '2\n', ''],
    ['a command that replaces the shell', 'exec sh -c "exit 5"', '5\n', ''],
  ];
  for (const [what, text, exitCode, stdout] of commands)
    it(`runs ${what} by itself, in the job's directory, and leaves its code apart`, () => {
      mkdirSync(join(workingDirectory, '.UNICORE_POST_0'));
      const job = parseDescription({ Environment: { V: "it's" } });
      const application = resolveApplication(job, idbOf({ applications: [], limits }));
      const facts = { workingDirectory, userDn: 'CN=A', umask: '077', environment: {} };
      const command = { which: 'post', text, exitCode: 4 } as const;
      const outcome = runScript(commandScript(command, application, { queue: 'vm' }, facts));
      assert.equal(fileText('.UNICORE_POST_0/UNICORE_SCRIPT_EXIT_CODE'), exitCode);
      assert.ok(outcome.stdout.startsWith(stdout), outcome.stderr);
      assert.equal(outcome.exitCode, undefined);
    });

  it('does nothing when the job was aborted before it started', () => {
    writeFileSync(join(workingDirectory, abortMarker), '');
    assert.deepEqual(run({ Executable: 'echo no' }), {
      stdout: '',
      stderr: '',
      exitCode: undefined,
    });
  });

  it('removes the exit code of a former run before anything else of the job', () => {
    writeFileSync(join(workingDirectory, 'UNICORE_SCRIPT_EXIT_CODE'), '0\n');
    const { stdout, exitCode } = run({ Executable: 'ls; exit 2' });
    assert.deepEqual([stdout, exitCode], ['', '2\n']);
  });

  it('survives environment names that the shell keeps for itself', () => {
    const { stdout, exitCode } = run({
      Executable: 'echo on',
      Environment: { UID: '0', BASHOPTS: 'x' },
    });
    assert.deepEqual([stdout, exitCode], ['on\n', '0\n']);
  });
});
