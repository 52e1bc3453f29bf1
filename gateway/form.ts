import type { IncomingMessage } from 'node:http';
import { collectText } from '#kernel/net/collect-text.js';
import { GatewayError } from './reply.js';

const largestForm = 8_192;
/** Anybody may begin one. */
const timeoutMs = 15_000;

/** Reads what a form sends to the gateway itself. @throws {@link GatewayError} `BAD_REQUEST`, `TOO_LARGE` */
export async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  const timer = setTimeout(
    () => request.destroy(new GatewayError('BAD_REQUEST', 'the form came too slowly')),
    timeoutMs,
  );
  try {
    // Not destroyed at the limit, so that the answer can still be sent
    const text = await collectText(request.iterator({ destroyOnReturn: false }), largestForm);
    if (text === undefined) throw new GatewayError('TOO_LARGE', 'the form is too long');
    return new URLSearchParams(text);
  } finally {
    clearTimeout(timer);
  }
}
