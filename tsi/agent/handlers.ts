import { join } from 'node:path';
import { errorText } from '#kernel/errors.js';
import type { ByteSource } from '#kernel/net/byte-source.js';
import { processes } from '../bss/processes.js';
import * as commands from '../protocol/commands.js';
import { frame } from '../protocol/framing.js';
import { encodeListing } from '../protocol/listing.js';
import type { Command, Message } from '../protocol/message.js';
import { encodeFailed, encodeOk, encodePing } from '../protocol/reply.js';
import { encodeSpace, encodeStatus } from '../protocol/status.js';
import type { Agent } from './agent.js';
import { OutOfStep } from './out-of-step.js';
import type { User } from './users.js';

/** One request being answered. */
export type Exchange = {
  readonly message: Message;
  /** Whom the request names. Rejects for whom nothing is run. */
  readonly user: () => Promise<User>;
  readonly data: {
    readonly incoming: ByteSource;
    readonly write: (chunk: Buffer) => Promise<void>;
  };
  /** Sends a part of the reply before its last. */
  readonly reply: (text: string) => Promise<void>;
  /** Fires when the client has left. */
  readonly gone: AbortSignal;
};

/** @returns the reply, or what is left of it, with its terminator */
export type Handler = (agent: Agent, exchange: Exchange) => Promise<string>;

/** More is never announced for one GETFILECHUNK: the chunk is in memory. */
const maxChunkBytes = 4 * 1024 * 1024;
const maxKeyFileBytes = 65_536;

/** A handler whose answer is one payload. */
function on<T>(
  command: Command<T>,
  run: (agent: Agent, value: T, exchange: Exchange) => Promise<string> | string,
): readonly [string, Handler] {
  return [
    command.name,
    async (agent, exchange) => {
      const value = command.decode(exchange.message);
      const old = Number.parseInt(agent.settings.version, 10) < 11;
      return encodeOk(await run(agent, value, exchange), command.bare && old);
    },
  ];
}

const handlers = new Map<string, Handler>([
  on(commands.ping, ({ settings }, { extensions }) => encodePing(settings.version, !!extensions)),
  on(
    commands.pingUid,
    ({ settings }) => `${settings.version}\n running as UID [${process.geteuid?.() ?? -1}]`,
  ),
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
  on(commands.submit, async ({ bss, files }, value, { user, message }) => {
    const owner = await user();
    const directory = (path: string): string => files.expand(owner, path, value.literal);
    return bss.submit(owner, {
      ...value,
      uspaceDir: directory(value.uspaceDir),
      outcomeDir: directory(value.outcomeDir),
      text: message.text,
    });
  }),
  on(commands.statusListing, async ({ bss }) => encodeStatus(await bss.status())),
  on(commands.processListing, () =>
    ['  PID COMMAND', ...processes().map(({ pid, name }) => `${pid} ${oneLine(name)}`)].join('\n'),
  ),
  on(commands.jobDetails, async ({ bss }, { bssId }, { user }) => bss.details(await user(), bssId)),
  on(commands.abortJob, async ({ bss }, { bssId }, { user }) => {
    await bss.abort(await user(), bssId);
    return '';
  }),
  on(commands.userInfo, async (agent, _, { user }) => describeUser(agent, await user())),
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

/** For logging in to UNICORE/X by SSH key (§2.15). */
async function describeUser({ settings, files }: Agent, user: User): Promise<string> {
  const keys: string[] = [];
  for (const name of settings.keyFiles) {
    const text = await files.read(user, join(user.home, name), 0, maxKeyFileBytes).catch(() => '');
    keys.push(
      ...text
        .toString()
        .split('\n')
        .filter((line) => /^\s*[^#\s]/.test(line)),
    );
  }
  const lines = keys.map((key, at) => `Accepted key ${at}: ${key.trim()}`);
  return [`home: ${user.home}`, ...lines, 'status: OK'].join('\n');
}

function oneLine(name: string): string {
  return name.replaceAll(/\s/g, '?');
}
