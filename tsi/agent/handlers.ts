import * as commands from '../protocol/commands.js';
import { encodeListing } from '../protocol/listing.js';
import type { Message } from '../protocol/message.js';
import { encodeFailed } from '../protocol/reply.js';
import { encodeSpace } from '../protocol/status.js';
import { on, type Handler } from './handler.js';
import { informationHandlers } from './information-handlers.js';
import { jobHandlers } from './job-handlers.js';
import { getFileChunk, putFileChunk } from './transfers.js';

const handlers = new Map<string, Handler>([
  ...informationHandlers,
  ...jobHandlers,
  on(commands.executeScript, async ({ scripts }, { discardOutput }, { user, message, gone }) => {
    const owner = await user();
    if (!discardOutput) return scripts.run(owner, message.text, gone);
    await scripts.launch(owner, message.text);
    return '';
  }),
  [commands.getFileChunk.name, getFileChunk],
  [commands.putFileChunk.name, putFileChunk],
  on(commands.listFiles, async ({ files }, { path, mode, literal }, { user }) => {
    const owner = await user();
    return encodeListing(await files.list(owner, files.expand(owner, path, literal), mode));
  }),
  on(commands.diskSpace, async ({ files }, { path, literal }, { user }) => {
    const owner = await user();
    return encodeSpace(files.space(owner, files.expand(owner, path, literal)));
  }),
]);

/** By the first known word of the header; the script is not looked at. */
export function findHandler({ words }: Message): Handler {
  const name = words.find((word) => handlers.has(word));
  return (
    (name === undefined ? undefined : handlers.get(name)) ??
    (() => Promise.resolve(encodeFailed('Unknown #TSI_* command')))
  );
}
