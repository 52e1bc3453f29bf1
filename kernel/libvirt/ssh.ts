import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { Duplex, type Readable, type Writable } from 'node:stream';
import { LibvirtError, unavailable } from './errors.js';
import type { SshAddress } from './uri.js';

/** Program and arguments of a process whose standard input and output are the daemon's socket. */
export type Command = readonly [program: string, ...args: string[]];

const netcat = 'nc -U';
const maxComplaint = 2048;

/** The `ssh` that reaches the daemon of `address`. It must not ask anything: nobody is there to answer. */
export function sshCommand(address: SshAddress, driverUri: string): Command {
  const { host, user, port, keyFile, knownHostsFile, socket } = address;
  const helper = `virt-ssh-helper ${quote(driverUri)}`;
  const remote = socket === undefined ? helper : `${netcat} ${quote(socket)}`;
  return [
    'ssh',
    '-T',
    ...['-e', 'none'],
    ...['-o', 'BatchMode=yes'],
    ...(port === undefined ? [] : ['-p', String(port)]),
    ...(user === undefined ? [] : ['-l', user]),
    ...(keyFile === undefined ? [] : ['-i', keyFile]),
    ...(knownHostsFile === undefined
      ? []
      : [
          ...['-o', `UserKnownHostsFile=${optionValue(knownHostsFile)}`],
          ...['-o', 'GlobalKnownHostsFile=/dev/null'], // it alone is believed
        ]),
    '--',
    host,
    `exec ${remote}`,
  ];
}

/** One word of ssh's own configuration, which replaces tokens and `${…}` in it. */
function optionValue(path: string): string {
  if (/["\n\\]|\$\{/.test(path))
    throw new LibvirtError('CONFIG_INVALID', `known_hosts: ${path} cannot be told to ssh`);
  return `"${path.replaceAll('%', '%%')}"`;
}

/** One word of sh. */
function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A process as a byte stream. Its end is always an error, with what it wrote to standard error. */
export class CommandSocket extends Duplex {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  #complaint = '';

  constructor([program, ...args]: Command) {
    super({ allowHalfOpen: false });
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const { stdin, stdout, stderr } = this.#child;
    stdout.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) stdout.pause();
    });
    stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#complaint = (this.#complaint + text).slice(0, maxComplaint);
    });
    stdin.on('error', () => undefined); // the process has gone: `close` tells why
    this.#child.on('error', (cause) =>
      this.destroy(unavailable(cause.message, { program }, cause)),
    );
    this.#child.on('close', (exitCode, signal) => {
      const why = this.#complaint.trim() || `exit code ${exitCode ?? signal ?? 'unknown'}`;
      this.destroy(unavailable(`${program} ended: ${why}`, { program, exitCode, signal }));
    });
  }

  override _read(): void {
    this.#child.stdout.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void) {
    if (this.#child.stdin.write(chunk)) done();
    else this.#child.stdin.once('drain', done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#child.stdin.destroy();
    this.#child.stdout.resume();
    this.#child.kill();
    done(error);
  }
}
