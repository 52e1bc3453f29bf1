import {
  close,
  constants,
  openSync,
  read,
  readdirSync,
  readFileSync,
  statSync,
  write,
} from 'node:fs';
import { basename } from 'node:path';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import type { Log } from './log.js';

const readFd = promisify(read);
const writeFd = promisify(write);

/** What an HTTP/2 client says first: all before it is left over from an earlier connection. */
const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const openRetryMs = 50;
/** Pauses while no host is connected, which shows as a read of nothing. */
const pausesMs = [10, 20, 50, 100];

/**
 * The guest's end of a character device that one host at a time is connected to, such as a virtio port.
 * Its reads block, so they sit in the thread pool, one at a time, and cannot be called off.
 */
export class DeviceLink {
  readonly #fd: number;
  readonly #log: Log;
  readonly #buffer = Buffer.allocUnsafe(65_536);
  #reading: Promise<Buffer> | undefined;
  /** The write that is under way; it outlives its session where the host has left. */
  writing: Promise<unknown> = Promise.resolve();
  #stopped = false;

  private constructor(fd: number, log: Log) {
    this.#fd = fd;
    this.#log = log;
  }

  /** Waits until the device is there: drivers may be slower than the agent. */
  static async open(path: string, log: Log): Promise<DeviceLink> {
    for (let told = false; ; told = true) {
      try {
        return new DeviceLink(openSync(findDevice(path), constants.O_RDWR), log);
      } catch (error) {
        if (!told) log.warn({ path, reason: errorText(error) }, 'the link device cannot be opened');
        await sleep(openRetryMs);
      }
    }
  }

  /** Serves one connection of the host after the other. Resolves after `stop`, when the host leaves. */
  async serve(accept: (connection: Duplex) => void): Promise<void> {
    let waited = 0;
    let before = Buffer.alloc(0);
    while (!this.#stopped) {
      const chunk = await this.peek();
      this.consume();
      if (chunk.length === 0) {
        await sleep(pausesMs[Math.min(waited, pausesMs.length - 1)]);
        waited += 1;
        before = Buffer.alloc(0);
        continue;
      }
      waited = 0;
      const seen = Buffer.concat([before, chunk]);
      const at = seen.indexOf(preface);
      before = seen.subarray(Math.max(0, seen.length - preface.length + 1));
      if (at < 0) continue;
      const connection = new DeviceConnection(this, seen.subarray(at));
      const closed = new Promise((resolve) => connection.once('close', resolve));
      connection.on('error', (error) =>
        this.#log.info({ reason: error.message }, 'the connection on the link device broke'),
      );
      accept(connection);
      await closed;
      before = Buffer.alloc(0);
    }
    await promisify(close)(this.#fd);
  }

  stop(): void {
    this.#stopped = true;
  }

  /** The bytes that come next, for whoever asks first and then takes them. Empty: no host. */
  peek(): Promise<Buffer> {
    this.#reading ??= readFd(this.#fd, this.#buffer, 0, this.#buffer.length, null).then(
      ({ bytesRead }) => Buffer.from(this.#buffer.subarray(0, bytesRead)),
      (error: unknown) => {
        this.#log.debug({ reason: errorText(error) }, 'the link device cannot be read');
        return Buffer.alloc(0);
      },
    );
    return this.#reading;
  }

  consume(): void {
    this.#reading = undefined;
  }

  async write(chunk: Buffer): Promise<void> {
    for (let at = 0; at < chunk.length;)
      at += (await writeFd(this.#fd, chunk, at, chunk.length - at, null)).bytesWritten;
  }
}

/** One connection of the host. Destroyed when the host leaves; what was queued for it goes with it. */
class DeviceConnection extends Duplex {
  readonly #device: DeviceLink;

  constructor(device: DeviceLink, first: Buffer) {
    super({ readableHighWaterMark: 262_144, writableHighWaterMark: 262_144 });
    this.#device = device;
    this.push(first);
  }

  override _read(): void {
    void this.#device.peek().then((chunk) => {
      if (this.destroyed) return; // the next connection takes these bytes
      this.#device.consume();
      if (chunk.length === 0) this.destroy();
      else this.push(chunk);
    });
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#send(() => this.#device.write(chunk), done);
  }

  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    this.#send(() => this.#device.write(Buffer.concat(chunks.map(({ chunk }) => chunk))), done);
  }

  #send(write: () => Promise<void>, done: (error?: Error | null) => void): void {
    const sent = this.#device.writing.then(() => (this.destroyed ? undefined : write()));
    this.#device.writing = sent.catch(() => undefined);
    sent.then(() => done(), done);
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
