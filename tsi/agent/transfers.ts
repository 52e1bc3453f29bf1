import { errorText } from '#kernel/errors.js';
import * as commands from '../protocol/commands.js';
import { frame } from '../protocol/framing.js';
import { encodeFailed, encodeOk } from '../protocol/reply.js';
import type { Agent } from './agent.js';
import type { FileSource } from './files.js';
import type { Exchange } from './handler.js';
import { OutOfStep } from './out-of-step.js';

/** More is never announced for one GETFILECHUNK: the other end keeps a chunk in memory. */
const maxChunkBytes = 4 * 1024 * 1024;
/** What is read, and sent, at a time. */
const pieceBytes = 512 * 1024;
const mostSpare = 8;
/** Kept between chunks: fresh memory costs more than what is read into it. */
const spare: Buffer[] = [];

/** Sent piece by piece, each while the next is read. */
export async function getFileChunk({ files }: Agent, exchange: Exchange): Promise<string> {
  const { path, offset, length, literal, more } = commands.getFileChunk.decode(exchange.message);
  const user = await exchange.user();
  const source = files.openToRead(user, files.expand(user, path, literal));
  let moreFollows = false;
  try {
    const wanted = source.available(offset, Math.min(length, maxChunkBytes));
    await send(source, offset, wanted, exchange);
    moreFollows = more === true && wanted === length;
  } finally {
    await source.close(moreFollows);
  }
  return frame('');
}

/** The first piece is read before anything is announced: only then is it known that it can be. */
async function send(
  source: FileSource,
  offset: number,
  wanted: number,
  { reply, data }: Exchange,
): Promise<void> {
  let next = takePiece();
  let length = await source.read(next, offset, Math.min(wanted, pieceBytes));
  const announced = length < Math.min(wanted, pieceBytes) ? length : wanted;
  await reply(encodeOk(`TSI_LENGTH ${announced}`));
  try {
    for (let sent = 0; sent < announced;) {
      const piece = next;
      const written = data.write(piece.subarray(0, length));
      written.catch(() => undefined); // waited for below
      sent += length;
      next = takePiece();
      const left = Math.min(announced - sent, pieceBytes);
      length = left > 0 ? await source.read(next, offset + sent, left) : 0;
      await written;
      giveBack(piece);
      if (length < left) throw new Error('the file has become shorter');
    }
  } catch (error) {
    throw new OutOfStep(errorText(error), { cause: error });
  }
  giveBack(next);
}

function takePiece(): Buffer {
  return spare.pop() ?? Buffer.allocUnsafeSlow(pieceBytes);
}

function giveBack(piece: Buffer): void {
  if (spare.length < mostSpare) spare.push(piece);
}

/** What was announced is read to its end, whatever becomes of the file: the next message follows it. */
export async function putFileChunk({ files }: Agent, exchange: Exchange): Promise<string> {
  const { action, file, length, literal, more } = commands.putFileChunk.decode(exchange.message);
  const user = await exchange.user();
  const path = files.expand(user, file.path, literal);
  const sink = files.openToWrite(user, path, action === commands.appendAction);
  let failure: unknown;
  const store = async (pieces: readonly Buffer[]): Promise<void> => {
    if (failure !== undefined) return;
    try {
      await sink.write(pieces);
    } catch (error) {
      failure = error;
    }
  };
  try {
    await exchange.reply(encodeOk());
    if (!(await exchange.data.incoming.take(length, store)))
      throw new OutOfStep('the data channel ended inside a chunk');
  } finally {
    await sink.close(file.mode, more === true && failure === undefined);
  }
  return failure === undefined ? frame('') : encodeFailed(errorText(failure));
}
