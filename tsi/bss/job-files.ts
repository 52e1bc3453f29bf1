import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import { TsiError } from '../protocol/error.js';
import type { JobRequest } from './bss.js';

/** The files of a job in its user's directories. All of it is done with the owner's ids (`Host.as`). */

/** Made or emptied; never a pipe or a device, which would hold the agent up. */
export function openFile(path: string, mode: number): number {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NONBLOCK } = constants;
  return regular(path, openSync(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, mode));
}

/** With what is missing above it. */
export function makeDirectory(path: string, umask: number): void {
  const before = process.umask(umask);
  try {
    mkdirSync(path, { recursive: true });
  } finally {
    process.umask(before);
  }
}

/** A program for nobody but its owner. */
export function writeScript(path: string, text: string): void {
  const before = process.umask(0o077);
  try {
    const script = openFile(path, 0o700);
    writeFileSync(script, text.startsWith('#!') ? text : `#!/bin/bash\n${text}`);
    closeSync(script);
  } finally {
    process.umask(before);
  }
}

/** @throws for what is longer */
export function readSmallFile(path: string, maxBytes: number): string {
  const fd = regular(path, openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
  try {
    const content = Buffer.alloc(maxBytes + 1);
    const size = readSync(fd, content, 0, content.length, 0);
    if (size <= maxBytes) return content.toString('utf8', 0, size);
  } finally {
    closeSync(fd);
  }
  throw new TsiError('TSI_FAILED', `${path} is longer than ${maxBytes} bytes`);
}

function regular(path: string, fd: number): number {
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new TsiError('TSI_FAILED', `${path} is not a regular file`);
}

/** `#TSI_UMASK` or `umask` as the script's first line (§4.4); else nobody but the owner may read. */
export function umaskOf({ script }: Pick<JobRequest, 'script'>): number {
  const first = /^(?:#TSI_UMASK|umask) ([0-7]{1,4})(?:\r?\n|$)/.exec(script)?.[1];
  return first === undefined ? 0o077 : Number.parseInt(first, 8) & 0o777;
}

export function jobFile(id: string): string {
  return `UNICORE_Job_${id}`;
}
