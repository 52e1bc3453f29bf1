import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { ServerTransfer } from '#xnjs/data/server-transfer.js';
import type { Task } from '#xnjs/data/tasks.js';
import { createRecordStores } from '#xnjs/persistence/sql-record-store.js';
import { until } from '../job/rig.js';
import { alice, dataRig } from './rig.js';

const aTransfer = (changes: Partial<ServerTransfer> = {}): ServerTransfer => ({
  ...{ id: '6a3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c', ownerDn: alice.dn, principal: alice, tags: [] },
  ...{ storageId: 'DATA', file: 'got', direction: 'in', remote: 'inline://x', data: 'abc' },
  ...{ parameters: {}, state: 'CREATED', message: '', transferredBytes: 0, sizeBytes: -1 },
  ...{ files: {}, createdMs: 1 },
  ...changes,
});

describe('transfers, tasks and shares over a restart', { timeout: 60_000 }, () => {
  it('go on with a download from where the former server was', async () => {
    await using scope = new Scope();
    const content = randomBytes(8_000_000);
    const ranges: number[] = [];
    const web = createServer((request, response) => {
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      ranges.push(from);
      response.writeHead(from > 0 ? 206 : 200, {
        ...{ etag: '"v1"', 'content-length': content.length - from },
        ...(from > 0 && { 'content-range': `bytes ${from}-7999999/8000000` }),
      });
      if (ranges.length === 1) response.write(content.subarray(0, 5_000_000));
      else response.end(content.subarray(from));
    }).listen(0, '127.0.0.1');
    await once(web, 'listening');
    scope.defer(() => {
      web.closeAllConnections();
      web.close();
    });
    const { start, files } = await dataRig(scope);
    const first = await start();
    const { id } = await first.transfers.create({
      ...{ principal: alice, storageId: 'DATA', file: 'got', direction: 'in', tags: [] },
      ...{ remote: `http://127.0.0.1:${(web.address() as AddressInfo).port}/f`, parameters: {} },
    });
    await until('bytes are there', () => first.transfers.find(id).transferredBytes === 5_000_000);
    const second = await start();
    await until('it is done', () => second.transfers.find(id).state === 'DONE');
    assert.deepEqual(ranges.length, 2);
    assert.ok(ranges[1]! > 0, 'not from the start');
    assert.deepEqual(await buffer(files.read('got')), content);
    assert.equal(second.transfers.find(id).transferredBytes, 8_000_000);
    const third = await start();
    assert.equal(third.transfers.find(id).state, 'DONE', 'and it is not done again');
    assert.equal(ranges.length, 2);
  });

  for (const [state, outcome] of [
    ['CREATED', 'DONE'],
    ['RUNNING', 'DONE'],
    ['ABORTING', 'ABORTED'],
    ['DESTROYING', undefined],
    ['FAILED', 'FAILED'],
  ] as const)
    it(`a transfer found ${state} becomes ${outcome ?? 'none'}`, async () => {
      await using scope = new Scope();
      const { database, start, files } = await dataRig(scope);
      const record = aTransfer({ state, ...(state !== 'CREATED' && { startedMs: 1 }) });
      const part = `/.UNICORE_${record.id}.part`;
      await files.write(part, Readable.from([Buffer.from('half')]));
      await createRecordStores(database)<ServerTransfer>('transfer').save(record);
      const { transfers } = await start();
      await until('it has settled', () => transfers.records.find(record.id)?.state === outcome);
      if (state === 'FAILED') return;
      await assert.rejects(files.stat(part), { code: 'NOT_FOUND' });
      if (outcome === 'DONE') assert.equal(await text(files.read('got')), 'abc');
      else await assert.rejects(files.stat('got'), { code: 'NOT_FOUND' });
    });

  it('do again what a task had begun', async () => {
    await using scope = new Scope();
    const { database, start, files } = await dataRig(scope);
    await files.write('a.txt', Readable.from([Buffer.from('a')]));
    const task: Task = {
      ...{
        id: 'begun',
        ownerDn: alice.dn,
        principal: alice,
        tags: [],
        serviceUrl: 'x',
        result: {},
      },
      ...{ state: 'RUNNING', message: '', createdMs: 1 },
      work: { do: 'extract', storageId: 'DATA', path: '/', depth: 1 },
    };
    await createRecordStores(database)<Task>('task').save(task);
    const { tasks } = await start();
    await until('it is over', () => tasks.records.get('begun').state === 'SUCCESSFUL');
    assert.equal(tasks.records.get('begun').result['documentsProcessed'], '1');
  });

  it('keep addresses and shares, and not the keys themselves', async () => {
    await using scope = new Scope();
    const { database, start, files } = await dataRig(scope);
    await files.write('x', Readable.from([Buffer.from('x')]));
    const first = await start();
    const wish = { principal: alice, storageId: 'DATA', isExport: true, append: false, tags: [] };
    const { key } = await first.clientTransfers.create({ ...wish, file: 'x', parameters: {} });
    const share = { principal: alice, user: 'CN=Bob,O=Grid', storageId: 'DATA', path: 'x' };
    const { id } = await first.shares.create({ ...share, access: 'READ', isOneTime: false });
    const second = await start();
    const { transfer } = await second.clientTransfers.open(key, 'read');
    assert.equal(transfer.path, '/x');
    assert.ok(!JSON.stringify(transfer).includes(key));
    const [row] = await database.sequelize.query('SELECT document FROM owned_records');
    assert.ok(!JSON.stringify(row).includes(key));
    assert.equal(second.shares.find(id, { dn: 'CN=Bob,O=Grid', role: 'user' }).path, '/x');
    const last = key.at(-2) === 'A' ? 'B' : 'A'; // the very last letter has bits that say nothing
    const other = `${key.slice(0, -2)}${last}${key.slice(-1)}`;
    await assert.rejects(second.clientTransfers.open(other, 'read'), { code: 'NOT_FOUND' });
  });
});
