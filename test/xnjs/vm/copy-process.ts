/**
 * Copies a file to a pool in a process of its own, to be killed: it stops in the middle of the upload and says so.
 * Arguments: directory of the database, URI of libvirt, pool, file, its digest.
 */
import { stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { Scope } from '#kernel/scope.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { silentLog as log } from '#kernel/log.js';
import { copiedImages, openSettings } from './copied-images-rig.js';

const [directory = '', uri = '', pool = '', path = '', sha256 = ''] = process.argv.slice(2);

class Held extends PoolVolumes {
  override async upload(...[name, open, atBytes, options]: Parameters<PoolVolumes['upload']>) {
    const half = size / 2;
    const held = async function* () {
      let sent = 0;
      for await (const chunk of open() as AsyncIterable<Buffer>) {
        if (sent >= half) {
          process.send?.('held');
          await new Promise(() => undefined);
        }
        sent += chunk.length;
        yield chunk;
      }
    };
    await super.upload(name, () => Readable.from(held()), atBytes, options);
  }
}

const scope = new Scope();
const { size } = await stat(path);
const database = await openSettings(scope, directory);
const client = scope.use(await LibvirtClient.connect({ uri, log }));
const images = await copiedImages(database, new Held(client, pool));
await images.copy({ sha256, sizeBytes: size, path });
