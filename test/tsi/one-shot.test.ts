import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chownSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { bundled, isRoot, nobodyId, scratch, until } from './agent-process.js';

const scope = new Scope();
const end = 'ENDOFMESSAGE\n';
let dir: string;
before(() => (dir = scratch(scope, nobodyId)));
after(() => scope.close());

/** As `ssh user@host agent --oneshot` would: an ordinary user, streams and nothing else. */
async function ask(input: string): Promise<{ reply: string; status: number | null }> {
  const drop = isRoot ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] : [];
  const words: string[] = [...drop, process.execPath, await bundled(), '--oneshot'];
  const [file = '', ...args] = words;
  const env = { PATH: process.env['PATH'], HOME: dir };
  const child = spawn(file, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.on('error', () => undefined); // it may have heard enough
  child.stdin.write(input); // and stays open: the reply must not wait for its end
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const reply = await text(child.stdout);
  return { reply, status: await ended };
}
const message = (...lines: string[]): string => `${lines.join('\n')}\n${end}`;
const submission = (script: string): string =>
  message(
    ...['#TSI_SUBMIT', `#TSI_USPACE_DIR ${dir}`, `#TSI_OUTCOME_DIR ${dir}`],
    ...['#TSI_STDOUT out', '#TSI_STDERR err', '#TSI_SCRIPT', script],
  );

describe('the one-shot mode', () => {
  it('answers one message and ends', async () => {
    const { reply, status } = await ask(message('#TSI_PING', ''));
    assert.deepEqual([reply, status], [`TSI_OK\n11.2.1\n${end}`, 0]);
  });

  it('sends data as a block in Base64', async () => {
    const path = join(dir, 'a');
    writeFileSync(path, 'hello data\n', { mode: 0o644 });
    const { reply } = await ask(
      message('#TSI_GETFILECHUNK', `#TSI_FILE ${path}`, '#TSI_START 0', '#TSI_LENGTH 100'),
    );
    const block = '---BEGIN DATA BASE64---\naGVsbG8gZGF0YQo=\n---END DATA---\n';
    assert.equal(reply, `TSI_OK\nTSI_LENGTH 11\n${end}${block}${end}`);
  });

  it('takes data as a block in Base64, in one line or several', async () => {
    const path = join(dir, 'b');
    const content = Buffer.alloc(300_000, 'binary \0\xff');
    const lines = content.toString('base64').replaceAll(/.{76}/g, '$&\n');
    for (const encoded of [content.toString('base64'), lines]) {
      const request = message('#TSI_PUTFILECHUNK', `#TSI_FILE ${path} 640`, '#TSI_LENGTH 300000');
      const block = `---BEGIN DATA BASE64---\n${encoded}\n---END DATA---\n`;
      assert.equal((await ask(request + block)).reply, `TSI_OK\n${end}${end}`);
      assert.ok(readFileSync(path).equals(content));
      assert.equal(statSync(path).mode & 0o777, 0o640);
    }
  });

  it('waits for no block where no bytes are announced', async () => {
    const request = message(
      '#TSI_PUTFILECHUNK',
      `#TSI_FILE ${join(dir, 'c')} 640`,
      '#TSI_LENGTH 0',
    );
    assert.equal((await ask(request)).reply, `TSI_OK\n${end}${end}`);
  });

  it('says what is wrong with a block', async () => {
    const request = message(
      '#TSI_PUTFILECHUNK',
      `#TSI_FILE ${join(dir, 'd')} 640`,
      '#TSI_LENGTH 9',
    );
    for (const block of [
      'nonsense\n---END DATA---\n',
      '---BEGIN DATA BASE64---\nYQ==\n---END DATA---\n',
    ])
      assert.match(
        (await ask(request + block)).reply,
        /^TSI_OK\nENDOFMESSAGE\nTSI_FAILED: .*\nENDOFMESSAGE\n$/,
      );
  });

  it('starts jobs that outlive it, and finds them again', async () => {
    const place = scratch(scope, nobodyId);
    if (isRoot) chownSync(place, nobodyId, nobodyId);
    const go = join(place, 'go');
    const { reply } = await ask(submission(`while [ ! -e ${go} ]; do sleep 0.05; done; echo ran`));
    const [, id = ''] = /^TSI_OK\n(\d+)\nENDOFMESSAGE\n$/.exec(reply) ?? [];
    const listing = message('#TSI_GETSTATUSLISTING');
    assert.match((await ask(listing)).reply, new RegExp(`^TSI_OK\\nQSTAT\\n ${id} RUNNING `));
    writeFileSync(go, '');
    await until('it ends', async () => !(await ask(listing)).reply.includes(id));
    assert.equal(readFileSync(join(dir, 'out'), 'utf8'), 'ran\n');
  });
});
