import { connect } from 'node:net';
import type { Duplex, Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';

const signature = Buffer.from('89504e470d0a1a0a', 'hex');
/** Larger than any screen that QEMU's adapters show (5120 x 2880, three bytes a pixel). */
const mostBytes = 64 * 1024 * 1024;
const connectMs = 5_000;

/** @throws `CONFLICT` nobody listens there */
export function connectScreen(path: string): Promise<Duplex> {
  const socket = connect(path);
  socket.setTimeout(connectMs, () => socket.destroy(new Error('it does not answer')));
  return new Promise((resolve, reject) => {
    socket.once('error', (cause: NodeJS.ErrnoException) => {
      // the message of the system tells paths of the host
      const text = `the screen cannot be reached: ${cause.code ?? cause.message}`;
      reject(new GridError('CONFLICT', text, {}, { cause }));
    });
    socket.once('connect', () => {
      socket.setTimeout(0);
      socket.removeAllListeners('error').on('error', () => undefined); // `close` follows
      resolve(socket);
    });
  });
}

/**
 * A picture of a screen as libvirt gives it: PNG (older ones than Debian 12's have PPM only).
 * @throws `HYPERVISOR_FAILED` it is none, or larger than any screen is
 */
export async function readPng(picture: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of picture as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostBytes) break;
    chunks.push(chunk);
  }
  const png = Buffer.concat(chunks);
  if (size <= mostBytes && png.subarray(0, signature.length).equals(signature)) return png;
  const why = size > mostBytes ? `more than ${mostBytes} bytes` : 'no PNG';
  throw new GridError('HYPERVISOR_FAILED', `the picture of the screen cannot be shown: ${why}`);
}
