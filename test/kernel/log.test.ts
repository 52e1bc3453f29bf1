import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { createLog } from '#kernel/log.js';
import { nodeFlags } from '../program.js';

/** Runs a program that has a log. @returns the messages that reached its standard output */
function messagesOf(program: string): string[] {
  const code = `import { createLog } from '#kernel/log.js'; const log = createLog(); ${program}`;
  const { stdout } = spawnSync(
    process.execPath,
    [...nodeFlags, '--input-type=module', '-e', code],
    { encoding: 'utf8' },
  );
  const lines = stdout.split('\n').filter((line) => line !== '');
  return lines.map((line) => (JSON.parse(line) as { msg: string }).msg);
}

describe('the log', () => {
  it('has no secrets, whatever carries them, and leaves what it was given as it is', () => {
    let written = '';
    const log = createLog({ stream: { write: (line: string) => (written += line) } });
    const given = {
      password: 'zz1',
      request: { authorization: 'zz2', path: '/a' },
      key: undefined,
    };
    log.info(given, 'said');
    const child = log.child({ token: 'zz3', peer: 'p' });
    child.info('by a child');
    child.child({ request: { key: 'zz6' } }).info('by a child of that');
    log.error({ err: Object.assign(new Error('e'), { secret: 'zz4', code: 'C' }) }, 'failed');
    log.error(Object.assign(new Error('e'), { passphrase: 'zz5' }));
    assert.doesNotMatch(written, /zz/);
    assert.equal(written.match(/\[redacted\]/g)?.length, 7);
    assert.match(written, /"path":"\/a".*"peer":"p".*"code":"C"/s);
    assert.equal(given.request.authorization, 'zz2');
  });

  it('has every line, in order, of a program that ends by an error', () => {
    const program = `log.info('a'); log.error('b'); log.info('c'); setTimeout(() => { log.info('d'); throw 1; })`;
    assert.deepEqual(messagesOf(program), ['a', 'b', 'c', 'd']);
  });

  it('has an error, and what came before it, even of a program that is killed at once', () => {
    const program = `log.info('a'); log.error('b'); process.kill(process.pid, 'SIGKILL')`;
    assert.deepEqual(messagesOf(program), ['a', 'b']);
  });
});
