import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import type { StoragePool } from '#kernel/libvirt/procedures.js';
import { aDaemon, withoutLibvirtd } from './daemon.js';

const mib = 1024 * 1024;
const whole = { offset: 0n, length: 0n, flags: 0 };
const pieceBytes = 300_000; // over a packet, and no multiple of anything

describe('libvirt streams', { skip: withoutLibvirtd, timeout: 120_000 }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let client: LibvirtClient;
  let pool: StoragePool;
  before(async () => {
    daemon = await aDaemon();
    client = await daemon.connect('qemu', { callTimeoutMs: 60_000 });
    const path = join(daemon.stateDir, 'pool');
    await mkdir(path);
    const xml = `<pool type='dir'><name>p</name><target><path>${path}</path></target></pool>`;
    ({ pool } = await client.call('storage_pool_create_xml', { xml, flags: 0 }));
  });
  after(async () => {
    await client.close();
    await daemon[Symbol.asyncDispose]();
  });

  const aVolume = async (name: string, sizeBytes: number) => {
    const xml = `<volume><name>${name}</name><capacity>${sizeBytes}</capacity><target><format type='raw'/></target></volume>`;
    return (await client.call('storage_vol_create_xml', { pool, xml, flags: 0 })).vol;
  };
  const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
  const pieces = function* (data: Buffer) {
    for (let at = 0; at < data.length; at += pieceBytes) yield data.subarray(at, at + pieceBytes);
  };

  it('carry a volume there and back', async () => {
    const data = randomBytes(5 * mib + 7);
    const vol = await aVolume('both', data.length);
    const upload = await client.openStream('storage_vol_upload', { vol, ...whole });
    await pipeline(Readable.from(pieces(data), { objectMode: false }), upload);
    const download = await client.openStream('storage_vol_download', { vol, ...whole });
    const hash = createHash('sha256');
    await pipeline(download, hash);
    assert.equal(hash.digest('hex'), sha256(data));
    await client.call('storage_vol_delete', { vol, flags: 0 });
  });

  it('carry a part of a volume', async () => {
    const vol = await aVolume('part', 100);
    const part = { vol, offset: 10n, length: 5n, flags: 0 };
    const upload = await client.openStream('storage_vol_upload', part);
    upload.end('abcde');
    await finished(upload);
    const download = await client.openStream('storage_vol_download', { ...part, offset: 9n });
    assert.deepEqual(Buffer.concat(await download.toArray()), Buffer.from('\0abcd'));
  });

  it('wait for a slow reader without holding up calls', async () => {
    const data = randomBytes(48 * mib);
    const vol = await aVolume('slow', data.length);
    const upload = await client.openStream('storage_vol_upload', { vol, ...whole });
    await pipeline(Readable.from(pieces(data), { objectMode: false }), upload);
    const download = await client.openStream('storage_vol_download', { vol, ...whole });
    const reader = new PassThrough({ highWaterMark: 1 });
    download.pipe(reader);
    await once(reader, 'readable');
    // Time enough for the daemon to send everything, were it not held back
    for (let call = 0; call < 500; call++) await client.call('connect_get_type', {});
    assert.ok(download.readableLength < 2 * mib, `${download.readableLength} bytes wait`);
    const hash = createHash('sha256');
    await pipeline(reader, hash);
    assert.equal(hash.digest('hex'), sha256(data));
  });

  it('end early when they are destroyed, on either side of the middle', async () => {
    const vol = await aVolume('early', 64 * mib);
    const upload = await client.openStream('storage_vol_upload', { vol, ...whole });
    upload.write(Buffer.alloc(mib));
    upload.destroy();
    upload.destroy();
    await once(upload, 'close');
    const download = await client.openStream('storage_vol_download', { vol, ...whole });
    for await (const chunk of download) if (chunk) break;
    assert.ok(download.destroyed);
    await client.call('storage_vol_delete', { vol, flags: 0 });
  });

  it('fail with the error of the daemon', async () => {
    const vol = { pool: 'p', name: 'none', key: '/none' };
    const opening = client.openStream('storage_vol_download', { vol, ...whole });
    await assert.rejects(opening, { code: 'HYPERVISOR_FAILED' });
  });

  it('fail when more is written than was announced', async () => {
    const vol = await aVolume('over', 100);
    const part = { vol, offset: 0n, length: 10n, flags: 0 };
    const upload = await client.openStream('storage_vol_upload', part);
    const source = Readable.from(pieces(Buffer.alloc(4 * mib)), { objectMode: false });
    await assert.rejects(pipeline(source, upload), { code: 'HYPERVISOR_FAILED' });
  });

  it('fail when the daemon is killed', async () => {
    const vol = await aVolume('killed', 64 * mib);
    const download = await client.openStream('storage_vol_download', { vol, ...whole });
    const ended = assert.rejects(finished(download), { code: 'HYPERVISOR_UNAVAILABLE' });
    await daemon.kill();
    download.resume();
    await ended;
  });
});
