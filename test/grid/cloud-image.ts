import { execFile } from 'node:child_process';
import {
  appendFile,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findReason } from './grid.js';
import { noDisks } from './bootable-disk.js';

const run = promisify(execFile);

/** Why it cannot be made here; `false` where it can. */
export const noCloudImages =
  noDisks ||
  findReason([
    ['mmdebstrap', '--version'],
    ['mke2fs', '-V'],
  ]);

const sector = 512;
const mebibyte = 2_048; // in sectors
const boot = { start: 2_048, sectors: 96 * mebibyte, type: 0x0e };
const root = { start: boot.start + boot.sectors, sectors: 1_400 * mebibyte, type: 0x83 };
const packages = [
  'cloud-init',
  'linux-image-cloud-amd64',
  'openssh-server',
  'procps',
  'systemd-sysv',
  'udev',
];
const menu = `DEFAULT linux
LABEL linux
  KERNEL vmlinuz
  INITRD initrd
  APPEND root=/dev/vda2 rw console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on
`;

/**
 * Debian as clouds have it: systemd, cloud-init, ssh, and nothing of ours. Takes two minutes and needs root.
 * @returns the path of the qcow2 file
 */
export async function makeCloudImage(directory: string): Promise<string> {
  const [tree, raw, disk] = [
    join(directory, 'root'),
    join(directory, 'disk.raw'),
    join(directory, 'disk.qcow2'),
  ];
  const [fat, ext4] = [join(directory, 'boot.fat'), join(directory, 'root.ext4')];
  await mkdir(directory, { recursive: true });
  await run('mmdebstrap', [
    '--variant=minbase',
    `--include=${packages.join(',')}`,
    'bookworm',
    tree,
  ]);
  // the only source that there is: others would be waited for
  await writeFile(
    join(tree, 'etc/cloud/cloud.cfg.d/90_source.cfg'),
    'datasource_list: [ NoCloud, None ]\n',
  );
  const names = await readdir(join(tree, 'boot'));
  const find = (prefix: string): string =>
    join(tree, 'boot', names.find((name) => name.startsWith(prefix)) ?? prefix);
  await file(fat, boot.sectors);
  await run('mkfs.fat', ['-F', '16', '-h', String(boot.start), fat]);
  const config = join(directory, 'syslinux.cfg');
  await writeFile(config, menu);
  for (const [from, to] of [
    [find('vmlinuz'), '::/vmlinuz'],
    [find('initrd'), '::/initrd'],
    [config, '::/syslinux.cfg'],
  ] as const)
    await run('mcopy', ['-i', fat, from, to]);
  await run('syslinux', ['--install', fat]);
  await file(ext4, root.sectors);
  await run('mke2fs', ['-q', '-t', 'ext4', '-O', '^has_journal', '-d', tree, ext4]);
  await rm(tree, { recursive: true });
  await writeFile(raw, await partitionTable());
  await truncate(raw, boot.start * sector);
  await appendFile(raw, await readFile(fat));
  await run('dd', [
    `if=${ext4}`,
    `of=${raw}`,
    'bs=1M',
    `seek=${root.start / mebibyte}`,
    'conv=sparse,notrunc',
  ]);
  await truncate(raw, (root.start + root.sectors) * sector);
  await run('qemu-img', ['convert', '-O', 'qcow2', raw, disk]);
  for (const path of [fat, ext4, raw]) await rm(path);
  return disk;
}

async function file(path: string, sectors: number): Promise<void> {
  await using handle = await open(path, 'w');
  await handle.truncate(sectors * sector);
}

async function partitionTable(): Promise<Buffer> {
  const table = Buffer.alloc(sector);
  (await readFile('/usr/lib/syslinux/mbr/mbr.bin')).copy(table);
  for (const [at, { start, sectors, type }] of [boot, root].entries()) {
    const entry = 446 + 16 * at;
    table.writeUInt8(at === 0 ? 0x80 : 0, entry);
    table.writeUInt8(type, entry + 4);
    table.writeUInt32LE(start, entry + 8);
    table.writeUInt32LE(sectors, entry + 12);
  }
  table.writeUInt16LE(0xaa55, 510);
  return table;
}
