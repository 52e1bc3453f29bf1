import { createHash, randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Volumes } from '#kernel/libvirt/volumes.js';
import { Scope } from '#kernel/scope.js';
import { aDaemon } from './test/kernel/libvirt/daemon.js';
import { copiedImages, openSettings } from './test/xnjs/vm/copied-images-rig.js';
const scope = new Scope();
const d = await aDaemon();
scope.defer(() => d[Symbol.asyncDispose]());
try {
  const c = scope.use(await d.connect('qemu'));
  const path = join(d.stateDir, 'pool'); await mkdir(path);
  const xml = `<pool type='dir'><name>p</name><target><path>${path}</path></target></pool>`;
  await c.call('storage_pool_create_xml', { xml, flags: 0 });
  const images = await copiedImages(await openSettings(scope, d.stateDir), new Volumes(c, 'p'));
  for (let i = 0; i < 2; i++) {
    const data = randomBytes(256 * 1024 ** 2);
    const file = join(d.stateDir, 'f'); await writeFile(file, data);
    const sha256 = createHash('sha256').update(data).digest('hex');
    const cpu = process.cpuUsage(); const t = performance.now();
    await images.copy({ sha256, sizeBytes: data.length, path: file });
    const { user, system } = process.cpuUsage(cpu);
    console.log('256 MiB', Math.round(performance.now() - t), 'ms', Math.round((user + system) / 1000), 'ms cpu', Math.round(process.memoryUsage().rss / 1e6), 'MB rss');
    const t2 = performance.now(); await images.find({ sha256, sizeBytes: data.length }); console.log('find', performance.now() - t2);
  }
} finally { await scope.close(); }
