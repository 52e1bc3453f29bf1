import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';

/*
 * Machines without a system: a boot sector that says `R` on the serial line, waits, and does one thing when it
 * is sent an NMI (`virsh inject-nmi`). Real mode of the 8086, loaded at 0x7c00 with the disk in `dl`.
 */

/** The watchdog's place on the first PCI bus; the test gives the machine one there. */
export const watchdogSlot = 10;

const handlerAt = 0x40;
const packetAt = 0x100;

const start = [
  ...[0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c], // cli; ds = es = ss = 0; sp = 7c00
  ...[0xc7, 0x06, 0x08, 0x00, handlerAt, 0x7c, 0xc7, 0x06, 0x0a, 0x00, 0x00, 0x00], // vector of the NMI
  ...[0xba, 0xf8, 0x03, 0xb0, 0x52, 0xee], // out 3f8, 'R'
  ...[0xfb, 0xf4, 0xeb, 0xfd], // sti; hlt, for ever
];
const halt = [0xfa, 0xf4, 0xeb, 0xfd];

/** mov eax, address of a register in PCI's configuration space; mov dx, cf8; out dx, eax; mov dx, cfc */
const choose = (register: number): number[] => [
  ...[0x66, 0xb8, register, watchdogSlot << 3, 0x00, 0x80],
  ...[0xba, 0xf8, 0x0c, 0x66, 0xef, 0xba, 0xfc, 0x0c],
];

const incidents = {
  nothing: halt,
  /** out 604, 2000: the board's ACPI register for that, as a system does it at its end */
  'powers off': [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, ...halt],
  /** out 505, 1: what Linux' pvpanic driver does when the kernel panics */
  panics: [0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, ...halt],
  /** i6300esb: count by MHz, so that it runs out after two seconds; enable. Nobody resets it. */
  'arms its watchdog': [
    ...choose(0x60),
    ...[0xb8, 0x04, 0x00, 0xef], // mov ax, 4; out dx, ax
    ...choose(0x68),
    ...[0xb0, 0x02, 0xee], // mov al, 2; out dx, al
    ...halt,
  ],
  /** Writes to its serial line for ever: mov dx, 3f8; mov al, 'x'; out dx, al; again from out */
  'floods its console': [0xba, 0xf8, 0x03, 0xb0, 0x78, 0xee, 0xeb, 0xfd],
  /** Writes a sector into each 64 KiB of its disk. */
  'fills its disk': [
    ...[
      0xfb,
      0xb8,
      0x00,
      0x43,
      0xb2,
      0x80,
      0xbe,
      packetAt & 0xff,
      0x7c + (packetAt >> 8),
      0xcd,
      0x13,
    ],
    ...[0x66, 0x81, 0x06, (packetAt + 8) & 0xff, 0x7c + (packetAt >> 8), 0x80, 0x00, 0x00, 0x00],
    ...[0xeb, 0xeb], // again, from mov ax
  ],
} as const satisfies Record<string, readonly number[]>;
export type Incident = keyof typeof incidents;

/** @returns a disk of 64 MiB that does this */
export function bootDisk(path: string, incident: Incident): string {
  const sector = Buffer.alloc(512);
  sector.set(start);
  sector.set(incidents[incident], handlerAt);
  sector.set([0x10, 0, 1, 0, 0, 0x7c, 0, 0], packetAt); // one sector, from 0:7c00, to the number that follows
  sector.set([0x55, 0xaa], 510);
  const raw = `${path}.raw`;
  writeFileSync(raw, sector);
  execFileSync('truncate', ['-s', '64M', raw]);
  execFileSync('qemu-img', ['convert', '-O', 'qcow2', raw, path]);
  rmSync(raw);
  return path;
}

/** Of a kernel for QEMU's `-kernel`, by Linux' boot protocol 2.02: one that says `R` and waits. */
export function bootKernel(path: string): string {
  const file = Buffer.alloc(2_048);
  file[0x1f1] = 1; // sectors of the part that runs in real mode, beside the first
  file.set([0x55, 0xaa], 0x1fe);
  file.set([0xeb, 0x3e, ...Buffer.from('HdrS'), 0x02, 0x02], 0x200); // jmp 0x240
  file[0x211] = 1; // the rest, which is nothing here, is loaded high
  file.set([0xba, 0xf8, 0x03, 0xb0, 0x52, 0xee, 0xfb, 0xf4, 0xeb, 0xfd], 0x240);
  writeFileSync(path, file);
  return path;
}
