import { once } from 'node:events';
import { closeSync, rmSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { errorText } from '#kernel/errors.js';
import { makeDirectory, openFile } from '../bss/job-files.js';
import * as commands from '../protocol/commands.js';
import { TsiError } from '../protocol/error.js';
import type { Infer } from '../protocol/message.js';
import { encodeOk } from '../protocol/reply.js';
import type { Agent } from './agent.js';
import { leavesOkOut, type Handler } from './handler.js';
import type { User } from './users.js';
import type { Transfer } from './uftp-transfer.js';

type Request = Infer<typeof commands.uftp>;

/** What the agent's program is called with to be a client of a UFTP server. */
export const transferFlag = '--uftp';

/** Starts a transfer in the background (§2.18), as a process of the user. */
export const uftp: Handler = async (agent, { message, user }) => {
  const request = commands.uftp.decode(message);
  check(request);
  await start(agent, await user(), request);
  return encodeOk(undefined, leavesOkOut(agent));
};

/** What is sent to the server are lines: no value may end one. */
function check({ host, port, secret, remoteFile }: Request): void {
  for (const [name, text] of Object.entries({
    HOST: host,
    SECRET: secret,
    REMOTE_FILE: remoteFile,
  }))
    if (/\p{Cc}/u.test(text)) refuse(`TSI_UFTP_${name} holds a control character`);
  if (port < 1 || port > 65_535) refuse('TSI_UFTP_PORT is not a port');
}

async function start({ files, users }: Agent, owner: User, request: Request): Promise<void> {
  const expand = (path: string): string => files.expand(owner, path, request.literal);
  const uspaceDir = expand(request.uspaceDir);
  const outcomeDir = expand(request.outcomeDir);
  const transfer: Transfer = {
    host: request.host,
    port: request.port,
    secret: request.secret,
    operation: request.operation,
    partial: request.writeMode === 'PARTIAL',
    remoteFile: request.remoteFile,
    localFile: resolve(uspaceDir, expand(request.localFile)),
    offset: request.offset ?? 0,
    length: request.length,
    exitCodeFile: resolve(outcomeDir, request.exitCodeFile ?? 'UNICORE_SCRIPT_EXIT_CODE'),
  };
  const names = [
    request.stdout ?? 'stdout',
    request.stderr ?? 'stderr',
    request.pidFile ?? 'UNICORE_SCRIPT_PID',
  ];
  const open: number[] = [];
  try {
    users.as(owner, () => {
      makeDirectory(outcomeDir, 0o077);
      rmSync(transfer.exitCodeFile, { force: true }); // that of a transfer before
      for (const name of names) open.push(openFile(resolve(outcomeDir, name), 0o600));
    });
    const [stdout, stderr, pidFile] = open as [number, number, number]; // one for each name
    const pid = await launch(users, owner, transfer, { cwd: uspaceDir, stdout, stderr });
    writeFileSync(pidFile, `${pid}\n`);
  } finally {
    for (const fd of open) closeSync(fd);
  }
}

type Place = { readonly cwd: string; readonly stdout: number; readonly stderr: number };

/** The secret goes by a pipe: arguments can be read by everybody. */
async function launch(
  users: Agent['users'],
  owner: User,
  transfer: Transfer,
  { cwd, stdout, stderr }: Place,
): Promise<number> {
  const program = process.argv[1] ?? refuse('the agent does not know its own program');
  const args = [program, transferFlag];
  const child = users.spawn(owner, process.execPath, args, {
    cwd,
    stdio: ['pipe', stdout, stderr],
  });
  child.stdin?.on('error', () => undefined); // it has ended: its exit code tells
  await once(child, 'spawn').catch((cause: unknown) =>
    refuse(`the transfer does not start: ${errorText(cause)}`),
  );
  child.stdin?.end(JSON.stringify(transfer));
  child.unref();
  return child.pid ?? refuse('the transfer does not start');
}

function refuse(reason: string): never {
  throw new TsiError('TSI_FAILED', reason);
}
