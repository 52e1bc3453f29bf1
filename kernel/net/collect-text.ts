/**
 * Collects a text of bounded length.
 * @param pieces a stream, which ends at the limit; or its `iterator({ destroyOnReturn: false })`, so that an answer
 *   can still be sent on the connection that it comes from
 * @returns `undefined`: there is more than `limit` bytes
 */
export async function collectText(
  pieces: AsyncIterable<unknown>,
  limit: number,
): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  // bytes: nobody sets an encoding
  for await (const chunk of pieces as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limit) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
