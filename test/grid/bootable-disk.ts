import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { buildImage } from '#cli/image/build.js';
import { silentLog } from '#kernel/log.js';
import { projectRoot } from '#kernel/project-root.js';
import { findReason } from './grid.js';
import { giveIdentity } from './named-image.js';

const run = promisify(execFile);

/** Why disks cannot be made here; `false` where they can. */
export const noDisks = findReason([
  ['syslinux', '--version'],
  ['mcopy', '-V'],
  ['mkfs.fat', '--help'],
  ['qemu-img', '--version'],
]);

const masterBootRecord = '/usr/lib/syslinux/mbr/mbr.bin';
const sector = 512;
/** As the machine sees it. */
export const diskMiB = 96;
const partition = { start: 2_048, sectors: 95 * 2_048, type: 0x0e }; // FAT16, addressed by number
const commandLine =
  'console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests tsc=reliable ' +
  'no_timer_check random.trust_cpu=on audit=0 vsite.name=disk';

const menu = `DEFAULT later
LABEL first
  KERNEL kernel
  INITRD initrd
  APPEND ${commandLine} boot=first
LABEL later
  KERNEL kernel
  INITRD initrd
  APPEND ${commandLine} boot=later
`;

/** The demo machine, of an image that was a machine itself, whose jobs may write to its disk what its root may. */
export async function buildWriter(directory: string, cacheDir: string) {
  cpSync(join(projectRoot, 'config', 'images'), join(directory, 'images'), { recursive: true });
  const recipe = join(directory, 'images', 'demo-vm');
  const change = (name: string, from: string, to: string): void => {
    const text = readFileSync(join(recipe, name), 'utf8');
    assert.ok(text.includes(from));
    writeFileSync(join(recipe, name), text.replace(from, to));
  };
  change('recipe.yaml', 'virtio_console,', 'virtio_console,\n      virtio_blk,');
  giveIdentity(recipe);
  const agent = '\n/usr/lib/vsite/agent';
  change(join('root', 'init'), agent, `\nchmod 666 /dev/vda${agent}`);
  const built = await buildImage(recipe, { cacheDir, log: silentLog });
  const { kernel = '', initrd = '' } = built.parts;
  return { ...built, kernel, initrd };
}

/**
 * A disk with a boot sector and one FAT partition that holds the boot loader, a kernel and its initial
 * RAM disk. Its first boot says `boot=first` on the kernel's command line, each further one
 * `boot=later`: the boot loader writes down on the disk that the first is over.
 * @returns the path of the qcow2 file
 */
export async function makeBootableDisk(
  directory: string,
  { kernel, initrd }: { kernel: string; initrd: string },
): Promise<string> {
  const [raw, disk] = [join(directory, 'disk.raw'), join(directory, 'disk.qcow2')];
  const config = join(directory, 'syslinux.cfg');
  const offset = partition.start * sector;
  await writeFile(config, menu);
  await writeFile(raw, '');
  await truncate(raw, offset + partition.sectors * sector);
  const start = String(partition.start);
  const blocks = String(partition.sectors / 2); // of 1 KiB
  await run('mkfs.fat', ['-F', '16', '--offset', start, '-h', start, raw, blocks]);
  const copies = [
    [kernel, '::/kernel'],
    [initrd, '::/initrd'],
    [config, '::/syslinux.cfg'],
  ] as const;
  for (const [from, to] of copies) await run('mcopy', ['-i', `${raw}@@${offset}`, from, to]);
  await run('syslinux', ['--offset', String(offset), '--install', raw]);
  await finish(raw);
  await run('qemu-img', ['convert', '-O', 'qcow2', raw, disk]);
  return disk;
}

/** What the tools do not: the partition table, and which entry boots once. */
async function finish(path: string): Promise<void> {
  await using file = await open(path, 'r+');
  const table = Buffer.alloc(sector);
  (await readFile(masterBootRecord)).copy(table);
  table.writeUInt8(0x80, 446); // active
  table.writeUInt8(partition.type, 450);
  table.writeUInt32LE(partition.start, 454);
  table.writeUInt32LE(partition.sectors, 458);
  table.writeUInt16LE(0xaa55, 510);
  await file.write(table, 0, sector, 0);
  const content = await file.readFile();
  const empty = content.indexOf(auxiliaryData());
  if (empty < 0) throw new Error('syslinux has left no room for its boot-once entry');
  const once = auxiliaryData(Buffer.from('\x01\x05first'));
  await file.write(Buffer.concat([once, once]), 0, 2 * sector, empty);
}

/** "ADV" of syslinux (libinstaller/setadv.c): sum and data between magic numbers; kept twice. */
function auxiliaryData(entry = Buffer.alloc(0)): Buffer {
  const block = Buffer.alloc(sector);
  entry.copy(block, 8);
  let sum = 0xa3041767;
  for (let at = 8; at < sector - 4; at += 4) sum = (sum - block.readUInt32LE(at)) >>> 0;
  block.writeUInt32LE(0x5a2d2fa5, 0);
  block.writeUInt32LE(sum, 4);
  block.writeUInt32LE(0xdd28bf64, sector - 4);
  return block;
}
