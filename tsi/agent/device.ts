import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { Socket } from 'node:net';
import { basename } from 'node:path';
import { isatty } from 'node:tty';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '#kernel/errors.js';
import { longestGreeting } from '../protocol/greeting.js';
import type { Log } from './log.js';

/** What an HTTP/2 client says first: all before it is left over from an earlier connection. */
const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const lineBreak = 0x0a;
/** Pauses while no host is connected, or none has spoken. */
const pausesMs = [5, 10, 20];

type PipeHandle = { open(fd: number): number };
type PipeBinding = { readonly Pipe: new (type: number) => PipeHandle };

export type DeviceHost = {
  /** What a host has said in one line before it speaks HTTP/2. @returns what it is answered */
  readonly greet: (line: string) => Promise<string | undefined>;
  readonly accept: (connection: Socket) => void;
};
/** `said` is a line, or nothing. */
type Spoken = { readonly fd: number; readonly said: string; readonly first: Buffer };

/**
 * Serves one connection of the host after the other on a character device, such as a virtio port.
 *
 * @NOTE node has no public way to poll such a descriptor: its files are read by blocking calls in the
 * thread pool, which cannot be called off, keep the process from ending and cost a switch of threads for
 * each 4 KiB. The handle behind its pipes does what is needed (`docs/adr/004`).
 */
export async function serveDevice(
  path: string,
  log: Log,
  { greet, accept }: DeviceHost,
): Promise<never> {
  const { Pipe } = (process as unknown as { binding(name: 'pipe_wrap'): PipeBinding }).binding(
    'pipe_wrap',
  );
  for (;;) {
    const { fd, said, first } = await hostSpeaks(path, log);
    const handle = new Pipe(0);
    handle.open(fd);
    // the types do not know `handle`, which is how node itself makes sockets of handles
    const socket = new Socket({ handle, allowHalfOpen: false } as object);
    socket.on('error', (error) => log.info({ reason: error.message }, 'the host was lost'));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('end', () => socket.destroy());
    const answer = said === '' ? undefined : await greet(said);
    if (answer) socket.write(answer);
    socket.unshift(first);
    accept(socket);
    await closed;
  }
}

/** Opens the device and waits until an HTTP/2 client has begun to speak. */
async function hostSpeaks(path: string, log: Log): Promise<Spoken> {
  const fd = await openDevice(path, log);
  const buffer = Buffer.allocUnsafe(65_536);
  let seen = Buffer.alloc(0);
  for (let quiet = 0; ;) {
    const length = readNow(fd, buffer);
    if (length === 0) {
      await sleep(pausesMs[Math.min(quiet, pausesMs.length - 1)]);
      quiet += 1;
      continue;
    }
    quiet = 0;
    seen = Buffer.concat([seen, buffer.subarray(0, length)]);
    const at = seen.indexOf(preface);
    if (at >= 0) return { fd, said: lastLine(seen.subarray(0, at)), first: seen.subarray(at) };
    seen = seen.subarray(Math.max(0, seen.length - longestGreeting - preface.length));
  }
}

/** The one that ends here; what is before it was left over. */
function lastLine(bytes: Buffer): string {
  if (bytes.at(-1) !== lineBreak) return '';
  return bytes.toString('latin1', bytes.lastIndexOf(lineBreak, -2) + 1);
}

/** What is there, without waiting; 0 also while no host is connected. */
function readNow(fd: number, buffer: Buffer): number {
  try {
    return readSync(fd, buffer);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
    closeSync(fd);
    throw error;
  }
}

/** Drivers may be slower than the agent. */
async function openDevice(path: string, log: Log): Promise<number> {
  for (let told = false; ; told = true) {
    try {
      const flags = constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOCTTY;
      const fd = openSync(findDevice(path), flags);
      if (isatty(fd)) passAllBytes(fd);
      return fd;
    } catch (error) {
      if (!told) log.warn({ path, reason: errorText(error) }, 'the link device cannot be opened');
      await sleep(pausesMs[2]);
    }
  }
}

/** A terminal is a byte stream once it neither echoes, nor edits, nor changes line ends. */
function passAllBytes(fd: number): void {
  const modes = ['raw', '-echo', '-isig', '-iexten', '-ixon', 'min', '1', 'time', '0'];
  try {
    execFileSync('stty', modes, { stdio: [fd, 'ignore', 'pipe'] });
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Without udev, `/dev/virtio-ports/<name>` is found by the name that the kernel knows. */
function findDevice(path: string): string {
  if (statSync(path, { throwIfNoEntry: false }) || !path.startsWith('/dev/virtio-ports/'))
    return path;
  const ports = '/sys/class/virtio-ports';
  const found = readdirSync(ports).find(
    (port) => readFileSync(`${ports}/${port}/name`, 'utf8').trim() === basename(path),
  );
  return found === undefined ? path : `/dev/${found}`;
}
