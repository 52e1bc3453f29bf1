import { MessageChannel } from 'node:worker_threads';

/** What is sent by a port that is closed is taken from the sender, and is nobody's. */
const nowhere = new MessageChannel().port1;
nowhere.close();

/**
 * Frees the memory of bytes now, which nobody may use any more: they have length 0 afterwards. Left to the collection
 * of garbage, a thousand small buffers of an upload in flight count as growth of the heap, and have all of it looked
 * through several times for each hundred megabytes. What shares its memory with other buffers is left alone.
 */
export function letGo({ buffer, byteLength }: Buffer): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength)
    nowhere.postMessage(undefined, [buffer]);
}
