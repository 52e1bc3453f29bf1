import type { ClientHttp2Stream } from 'node:http2';
import { TsiError } from '#tsi/protocol/error.js';

const longestText = 65_536;

/** The agent does not know what is asked, or could not do it. */
export class UnexpectedStatus extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`the agent answers with status ${status}`);
    this.status = status;
  }
}

/** @returns `undefined`: the agent does not know what is asked */
export async function unlessUnknown<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    const { cause } = error as Error;
    if (cause instanceof UnexpectedStatus && cause.status === 404) return undefined;
    throw error;
  }
}

export function answered(stream: ClientHttp2Stream): Promise<void> {
  return new Promise((resolve, reject) => {
    const closed = (): void => reject(new Error('the stream was closed'));
    stream.once('response', ({ ':status': status }) => {
      stream.off('close', closed); // else an error is made at each end
      if (status === 200) resolve();
      else reject(new UnexpectedStatus(status ?? 0));
    });
    stream.once('error', reject);
    stream.once('close', closed);
  });
}

export async function text(stream: ClientHttp2Stream): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > longestText) throw new TsiError('TSI_PROTOCOL', 'the answer is too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
