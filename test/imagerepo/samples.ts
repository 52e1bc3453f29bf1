import type { ImageMetadata } from '#imagerepo/contract.js';
import type { z } from 'zod';

/** What a sender writes: defaults not filled in. */
export type Metadata = z.input<typeof ImageMetadata>;

export function metadata(changes: Partial<Metadata> = {}): Metadata {
  return {
    name: 'Demo',
    version: '1.0',
    format: 'kernel',
    os: { distribution: 'Debian', version: '12' },
    applications: [
      { Name: 'Date', Version: '1.0', Executable: '/bin/date' },
      { Name: 'Bash shell', Version: '5.2', Executable: '/bin/bash' },
    ],
    requirements: {
      cpus: { min: 1, default: 1, max: 4 },
      memoryMiB: { min: 128, default: 256, max: 1024 },
    },
    tsi: { login: 'grid', jobsDirectory: '/var/lib/jobs' },
    ...changes,
  };
}

/** The part of a bzImage that its boot protocol prescribes. */
export function bzImage(filler = ''): Buffer {
  const image = Buffer.alloc(0x400);
  image.writeUInt16LE(0xaa55, 0x1fe);
  image.write('HdrS', 0x202, 'latin1');
  image.write(filler, 0x300, 'latin1');
  return image;
}

export function gzipped(filler = ''): Buffer {
  return Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 0]), Buffer.from(filler)]);
}

export type Qcow2Fields = {
  version?: number;
  backingFile?: string;
  clusterBits?: number;
  diskBytes?: bigint;
  encryption?: number;
  l1Entries?: number;
  features?: bigint;
  extension?: readonly [type: number, data: string];
};

/** A qcow2 header as docs/interop/qcow2.rst of QEMU has it, in a file of one cluster. */
export function qcow2(fields: Qcow2Fields = {}): Buffer {
  const { version = 3, backingFile = '', clusterBits = 16, diskBytes = 1n << 30n } = fields;
  const image = Buffer.alloc(65_536);
  image.write('QFI\xfb', 0, 'latin1');
  image.writeUInt32BE(version, 4);
  if (backingFile) {
    image.writeBigUInt64BE(1024n, 8);
    image.writeUInt32BE(backingFile.length, 16);
    image.write(backingFile, 1024);
  }
  image.writeUInt32BE(clusterBits, 20);
  image.writeBigUInt64BE(diskBytes, 24);
  image.writeUInt32BE(fields.encryption ?? 0, 32);
  image.writeUInt32BE(fields.l1Entries ?? 2, 36);
  image.writeBigUInt64BE(4096n, 40);
  if (version !== 3) return image;
  image.writeBigUInt64BE(fields.features ?? 0n, 72);
  image.writeUInt32BE(4, 96);
  image.writeUInt32BE(104, 100);
  const [type, data] = fields.extension ?? [0, ''];
  image.writeUInt32BE(type, 104);
  image.writeUInt32BE(data.length, 108);
  image.write(data, 112);
  return image;
}

/** A tar archive of one empty file. */
export function tar(): Buffer {
  const archive = Buffer.alloc(1536);
  archive.write('etc/hostname', 0);
  archive.write('0000644\0', 100);
  archive.write('ustar\x0000', 257, 'latin1');
  archive.write(' '.repeat(8), 148);
  const sum = archive.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  archive.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return archive;
}
