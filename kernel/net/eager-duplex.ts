import { Duplex } from 'node:stream';

/**
 * A byte stream under HTTP/2 that is read whether or not the session wants to read.
 *
 * @NOTE node:http2 does not read while it writes. Two such ends with full buffers in both directions wait
 * for each other for good, and one that cannot write does not see the other hang up. What is read ahead
 * here is bounded by the session's flow control; the limit is for peers that disregard it.
 */
export class EagerDuplex extends Duplex {
  readonly #under: Duplex;

  constructor(under: Duplex, limitBytes = 64 * 1024 * 1024) {
    super({ allowHalfOpen: false });
    this.#under = under;
    under.on('data', (chunk: Buffer) => {
      if (this.readableLength > limitBytes) this.destroy(new Error('the peer sends too far ahead'));
      else this.push(chunk);
    });
    under.on('error', (error) => this.destroy(error));
    under.on('end', () => this.destroy());
    under.on('close', () => this.destroy());
  }

  override _read(): void {
    // it comes by itself
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#under.write(chunk, done);
  }

  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    this.#under.cork();
    chunks.forEach(({ chunk }, at) =>
      this.#under.write(chunk, at === chunks.length - 1 ? done : undefined),
    );
    this.#under.uncork();
  }

  override _final(done: () => void): void {
    this.#under.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#under.destroy();
    done(error);
  }
}
