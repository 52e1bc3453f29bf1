import { readFileSync, writeFileSync } from 'node:fs';
import { constants, open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { Client } from 'basic-ftp';
import { errorText } from '#kernel/errors.js';

/** One transfer; all paths are absolute. */
export type Transfer = {
  readonly host: string;
  readonly port: number;
  readonly secret: string;
  readonly operation: 'GET' | 'PUT';
  /** The bytes are a part of the file they are written to, at `offset`; else they are all of it. */
  readonly partial: boolean;
  readonly remoteFile: string;
  readonly localFile: string;
  readonly offset: number;
  /** Absent: to the end of the file. */
  readonly length?: number | undefined;
  readonly exitCodeFile: string;
};

/** How long a server may be silent. */
const idleMs = 30_000;

/** The process of a transfer: told by stdin what to do, tells how it went by files. */
export async function runTransfer(): Promise<void> {
  const transfer = JSON.parse(readFileSync(0, 'utf8')) as Transfer; // written by the agent
  const client = new Client(idleMs);
  try {
    await login(client, transfer);
    await (transfer.operation === 'GET' ? download : upload)(client, transfer);
  } catch (error) {
    process.stderr.write(`${transfer.operation} ${transfer.remoteFile}: ${errorText(error)}\n`);
    process.exitCode = 1;
  } finally {
    client.close();
    writeFileSync(transfer.exitCodeFile, `${process.exitCode ?? 0}\n`);
  }
}

/** Not by `access` of the library: a UFTPD takes nothing but the login first. */
async function login(client: Client, { host, port, secret }: Transfer): Promise<void> {
  say(`Connecting to ${host}:${port}`);
  say((await client.connect(host, port)).message);
  say((await client.login('anonymous', secret)).message);
  await client.send('TYPE I');
}

async function download(client: Client, transfer: Transfer): Promise<void> {
  const { partial, remoteFile, localFile, offset, length } = transfer;
  say(`GET ${remoteFile} -> ${localFile}`);
  const { O_WRONLY, O_CREAT, O_TRUNC } = constants;
  const file = await open(localFile, O_WRONLY | O_CREAT | (partial ? 0 : O_TRUNC), 0o600);
  const sink = file.createWriteStream({ start: partial ? offset : 0 });
  if (length !== undefined) await range(client, offset, length);
  const startAt = length === undefined ? offset : 0;
  say((await client.downloadTo(sink, remoteFile, startAt)).message);
  if (length !== undefined && sink.bytesWritten !== length)
    throw new Error(`the server sent ${sink.bytesWritten} of ${length} bytes`);
}

async function upload(client: Client, transfer: Transfer): Promise<void> {
  const { partial, remoteFile, localFile, offset } = transfer;
  say(`PUT ${localFile} -> ${remoteFile}`);
  const file = await open(localFile, 'r');
  const { size } = await file.stat();
  const length = transfer.length ?? Math.max(0, size - offset);
  if (offset + length > size)
    throw new Error(`${localFile} has ${size} bytes, less than ${offset + length}`);
  if (partial) await range(client, offset, length);
  const source =
    length === 0
      ? Readable.from([])
      : file.createReadStream({ start: offset, end: offset + length - 1 });
  say((await client.uploadFrom(source, remoteFile)).message);
}

/** A UFTPD takes the second number as the first byte that is not meant. */
async function range(client: Client, offset: number, length: number): Promise<void> {
  const { code, message } = await client.send(`RANG ${offset} ${offset + length}`);
  if (code !== 350) throw new Error(`RANG is refused: ${message}`);
  say(message);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
