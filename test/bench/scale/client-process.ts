import { setTimeout as sleep } from 'node:timers/promises';
import { createHttpClient } from '#kernel/http/client.js';
import type { Asked, Asking } from './client.js';

/** Started by {@link ask}. */
async function answer({ url, ca, auth, paths, forMs, betweenMs }: Asking): Promise<Asked> {
  await using client = createHttpClient({ baseUrl: url, tls: { ca }, auth });
  const times: number[] = [];
  const startedMs = performance.now();
  for (let at = 0; performance.now() - startedMs < forMs; at++) {
    const askedMs = performance.now();
    await client.json('GET', paths[(at * 7_919) % paths.length] ?? '');
    times.push(performance.now() - askedMs);
    await sleep(betweenMs);
  }
  return { times };
}

process.once('message', (asking: Asking) => {
  void answer(asking).then((asked) => process.send?.(asked, () => process.disconnect()));
});
