import type { ClientHttp2Stream } from 'node:http2';
import type { Duplex } from 'node:stream';
import { TsiError } from '#tsi/protocol/error.js';
import type { TsiIdentity } from './tsi.js';

const maxReasonBytes = 2_000;

export function forwardHeaders(
  { login, groups }: TsiIdentity,
  service: string,
): Readonly<Record<string, string>> {
  return {
    'tsi-identity': encodeURIComponent(`${login} ${groups}`),
    'tsi-service': encodeURIComponent(service),
  };
}

/** Resolves when the agent has reached the service. @throws {@link TsiError} `TSI_FAILED` with its reason */
export async function forwarded(stream: ClientHttp2Stream): Promise<Duplex> {
  const status = await new Promise<number>((resolve, reject) => {
    stream.once('response', (headers) => resolve(headers[':status'] ?? 0));
    stream.once('error', reject);
    stream.once('close', () => reject(new Error('the stream was closed')));
  });
  if (status === 200) return stream;
  if (status === 404) throw new TsiError('TSI_FAILED', 'this agent forwards no connections');
  let reason = '';
  const chunks = stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  try {
    for await (const chunk of chunks) {
      reason += chunk.toString();
      if (reason.length > maxReasonBytes) break;
    }
  } catch {
    // it has refused all the same: what came of its reason is told
  }
  throw new TsiError('TSI_FAILED', reason.slice(0, maxReasonBytes) || 'the service is not there');
}
