import { errorText } from '#kernel/errors.js';
import * as commands from '../protocol/commands.js';
import { frame } from '../protocol/framing.js';
import { encodeListing } from '../protocol/listing.js';
import type { Message } from '../protocol/message.js';
import { encodeFailed, encodeOk } from '../protocol/reply.js';
import { encodeSpace } from '../protocol/status.js';
import type { Agent } from './agent.js';
import { on, type Exchange, type Handler } from './handler.js';
import { informationHandlers } from './information-handlers.js';
import { jobHandlers } from './job-handlers.js';
import { OutOfStep } from './out-of-step.js';

/** More is never announced for one GETFILECHUNK: the chunk is in memory. */
const maxChunkBytes = 4 * 1024 * 1024;

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

async function getFileChunk({ files }: Agent, exchange: Exchange): Promise<string> {
  const { path, offset, length, literal } = commands.getFileChunk.decode(exchange.message);
  const user = await exchange.user();
  const wanted = Math.min(length, maxChunkBytes);
  const chunk = await files.read(user, files.expand(user, path, literal), offset, wanted);
  await exchange.reply(encodeOk(`TSI_LENGTH ${chunk.length}`));
  if (chunk.length > 0) await exchange.data.write(chunk);
  return frame('');
}

/** What was announced is read to its end, whatever becomes of the file: the next message follows it. */
async function putFileChunk({ files }: Agent, exchange: Exchange): Promise<string> {
  const { action, file, length, literal } = commands.putFileChunk.decode(exchange.message);
  const user = await exchange.user();
  const path = files.expand(user, file.path, literal);
  const sink = files.openToWrite(user, path, action === commands.appendAction);
  let failure: unknown;
  let received = 0;
  try {
    await exchange.reply(encodeOk());
    for await (const chunk of exchange.data.incoming.take(length)) {
      received += chunk.length;
      if (failure === undefined)
        await sink.write(chunk).catch((error: unknown) => {
          failure = error;
        });
    }
  } finally {
    await sink.close(file.mode);
  }
  if (received < length) throw new OutOfStep('the data channel ended inside a chunk');
  return failure === undefined ? frame('') : encodeFailed(errorText(failure));
}
