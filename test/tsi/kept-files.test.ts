import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import {
  isRoot,
  nobodyId,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { end, identity, openWorker, type RawWorker } from './raw-worker.js';

describe('a file between two chunks of one transfer', () => {
  const scope = new Scope();
  let agent: AgentProcess;
  let worker: RawWorker;
  let base: string;

  before(async () => {
    agent = await startAgent(scope);
    worker = await openWorker(scope, agent);
    base = scratch(scope, nobodyId);
  });
  after(() => scope.close());

  function ownFile(content: string): string {
    const dir = mkdtempSync(join(base, 'of-'));
    const file = join(dir, 'file');
    writeFileSync(file, content, { mode: 0o644 });
    if (isRoot) for (const path of [dir, file]) chownSync(path, nobodyId, nobodyId);
    return file;
  }

  /** @returns the bytes, or the reason why there are none */
  async function get(file: string, offset: number, more: boolean): Promise<string> {
    worker.send(
      '#TSI_GETFILECHUNK',
      `#TSI_FILE ${file}`,
      `#TSI_START ${offset}`,
      '#TSI_LENGTH 3',
      `#TSI_MORE ${more}`,
      identity,
    );
    const reply = await line(end);
    const length = /TSI_LENGTH (\d+)/.exec(reply)?.[1];
    if (length === undefined) return reply;
    const bytes = await worker.bytes(Number(length));
    await line(end);
    return bytes;
  }

  async function put(file: string, bytes: string, more: boolean, action = '3'): Promise<string> {
    worker.send(
      '#TSI_PUTFILECHUNK',
      `#TSI_FILESACTION ${action}`,
      `#TSI_FILE ${file} 644`,
      `#TSI_LENGTH ${bytes.length}`,
      `#TSI_MORE ${more}`,
      identity,
    );
    const reply = await line(end);
    if (!reply.startsWith('TSI_OK')) return reply;
    worker.data.write(bytes);
    return await line(end);
  }

  async function line(last: string): Promise<string> {
    let text = '';
    while (!text.endsWith(last)) text += await worker.reply(1);
    return text;
  }

  function isOpen(file: string): boolean {
    const fds = `/proc/${agent.child.pid}/fd`;
    return readdirSync(fds).some((fd) => {
      try {
        return readlinkSync(join(fds, fd)).startsWith(file);
      } catch {
        return false; // closed meanwhile
      }
    });
  }

  it('stays open for the next chunk if there is one, and not for long', async () => {
    const file = ownFile('abcdef');
    assert.equal(await get(file, 0, true), 'abc');
    assert.ok(isOpen(file));
    await until('nobody came', () => !isOpen(file));
    assert.equal(await get(file, 3, true), 'def');
    assert.equal(await get(file, 6, true), '');
    assert.ok(!isOpen(file), 'its end was seen');
  });

  it('is closed after that time whatever else goes on', async () => {
    const [left, other] = [ownFile('abcdef'), ownFile('abcdef')];
    await get(left, 0, true);
    await until('nobody came', async () => {
      await get(other, 0, true);
      return !isOpen(left);
    });
  });

  it('is closed when its last chunk is answered: only then can it be run', async () => {
    const file = ownFile('');
    assert.equal(await put(file, 'abc', true, '0'), end);
    assert.equal(await put(file, 'def', true), end);
    assert.ok(isOpen(file));
    assert.equal(await put(file, '', false), end);
    assert.ok(!isOpen(file));
    assert.equal(readFileSync(file, 'utf8'), 'abcdef');
    assert.equal(statSync(file).mode & 0o777, 0o644);
  });

  it('is the one that has its name now', async () => {
    const file = ownFile('abcdef');
    await get(file, 0, true);
    renameSync(ownFile('uvwxyz'), file);
    assert.equal(await get(file, 3, true), 'xyz');
    await put(file, '!', true);
    renameSync(ownFile('new'), file);
    await put(file, '?', false);
    assert.equal(readFileSync(file, 'utf8'), 'new?');
  });

  it('is as long as it is now, and written anew where that is asked', async () => {
    const file = ownFile('abcdef');
    await get(file, 0, true);
    truncateSync(file, 4);
    assert.equal(await get(file, 3, true), 'd');
    await put(file, 'x', true);
    await put(file, 'y', true, '0');
    assert.equal(readFileSync(file, 'utf8'), 'y');
  });

  it('is gone when it is gone, and made anew by the next chunk', async () => {
    const file = ownFile('abcdef');
    await get(file, 0, true);
    rmSync(file);
    assert.match(await get(file, 3, true), /^TSI_FAILED: ENOENT/);
    await put(file, 'abc', true);
    rmSync(file);
    await put(file, 'def', false);
    assert.equal(readFileSync(file, 'utf8'), 'def');
  });

  it(
    'is refused when it is another’s, or closed to its owner, since',
    { skip: !isRoot },
    async () => {
      const file = ownFile('abcdef');
      await get(file, 0, true);
      chmodSync(file, 0);
      assert.match(await get(file, 3, true), /^TSI_FAILED: EACCES/);
      chmodSync(file, 0o600);
      await put(file, 'g', true);
      chownSync(file, 0, 0);
      assert.match(await put(file, 'h', true), /^TSI_FAILED: EACCES/);
      assert.equal(readFileSync(file, 'utf8'), 'abcdefg');
    },
  );

  it('is not lent to another user', { skip: !isRoot }, async () => {
    const file = ownFile('abcdef');
    chmodSync(file, 0o600);
    await get(file, 0, true);
    worker.send(
      '#TSI_GETFILECHUNK',
      `#TSI_FILE ${file}`,
      '#TSI_START 3',
      '#TSI_LENGTH 3',
      '#TSI_IDENTITY games NONE',
    );
    assert.match(await line(end), /^TSI_FAILED: EACCES/);
  });
});
