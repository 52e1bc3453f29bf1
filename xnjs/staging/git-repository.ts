import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { PassingError, StagingError } from './errors.js';
import type { ImportTransfer } from './transfer.js';

export type Submodule = { readonly path: string; readonly url: string; readonly commit: string };

type Environment = Readonly<Record<string, string>>;

/** Since when an address can be fixed (`http.curloptResolve`), without which a name could mean another later. */
const oldestGit = [2, 37] as const;
const maxOutputBytes = 1024 * 1024;
const maxErrorBytes = 4_096;
const commitId = /^[0-9a-f]{40}(?:[0-9a-f]{24})?$/;
const referenceName = /^(?!-)(?!.*\.\.)[\w./+#-]{1,200}$/;
const passing =
  /could not resolve host|connection (?:refused|reset|timed out)|timed out|operation too slow|early eof|hung up|returned error: (?:408|429|502|503|504)/i;
const refused =
  /authentication failed|could not read (?:username|password)|returned error: 40[13]/i;

/**
 * A bare repository of the server's for the time of one transfer, worked on by the host's git: no shell, no
 * configuration but ours, no hooks, no protocols but http(s), one address (docs/adr/013).
 */
export class GitRepository implements AsyncDisposable {
  readonly #transfer: ImportTransfer;
  readonly #directory: string;
  readonly #config: Record<string, string>;

  private constructor(transfer: ImportTransfer, directory: string) {
    const { outside } = transfer;
    this.#transfer = transfer;
    this.#directory = directory;
    this.#config = {
      'core.hooksPath': '/dev/null',
      'core.attributesFile': '/dev/null',
      'core.bigFileThreshold': '1m', // larger ones are streamed, not kept in memory
      'credential.helper': '',
      'fetch.fsckObjects': 'true',
      'fetch.unpackLimit': '1', // one pack, whose size is limited
      'gc.auto': '0',
      'http.followRedirects': 'false',
      'http.proxy': '',
      'http.lowSpeedLimit': '1',
      'http.lowSpeedTime': String(Math.ceil(outside.silenceMs / 1_000)),
      'pack.threads': '1',
      'protocol.allow': 'never',
      'protocol.http.allow': 'always',
      'protocol.https.allow': 'always',
    };
  }

  static async open(transfer: ImportTransfer): Promise<GitRepository> {
    const { scratchDirectory, outside } = transfer;
    await mkdir(scratchDirectory, { recursive: true, mode: 0o700 });
    const directory = await mkdtemp(join(scratchDirectory, 'git-'));
    const repository = new GitRepository(transfer, directory);
    try {
      await repository.#checkVersion();
      await repository.#run(['init', '--quiet', '--bare', '--template=', directory]);
      // all that is in the commit, as it is in the commit
      await mkdir(join(directory, 'info'), { recursive: true });
      await appendFile(join(directory, 'info', 'attributes'), '* -export-ignore -export-subst\n');
      if (outside.trusted) {
        const path = join(directory, 'trusted.pem');
        await writeFile(path, outside.trusted.join('\n'));
        repository.#config['http.sslCAInfo'] = path;
      }
      return repository;
    } catch (error) {
      await repository[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true, maxRetries: 3 });
  }

  /**
   * @param reference a branch, a tag or a commit; absent: what the server's HEAD is
   * @returns the commit's id
   */
  async fetch(url: URL, reference = 'HEAD', authorization?: string): Promise<string> {
    if (!referenceName.test(reference))
      throw new StagingError('BAD_REQUEST', `"${reference}" is no name of a branch or commit`);
    const address = new URL(url);
    address.username = address.password = address.hash = '';
    const config = {
      ...(await this.#pin(address)),
      ...(authorization !== undefined && {
        [`http.${address.origin}/.extraHeader`]: `Authorization: ${authorization}`,
      }),
    };
    const fetch = [
      'fetch',
      '--quiet',
      '--no-tags',
      '--no-recurse-submodules',
      '--no-write-commit-graph',
    ];
    try {
      await this.#run([...fetch, '--depth=1', '--', address.href, reference], config);
      return await this.#commit('FETCH_HEAD');
    } catch (error) {
      // an abbreviated commit, or a server that gives only what it announces
      if (!(error instanceof StagingError) || !/^[0-9a-f]{7,64}$/.test(reference)) throw error;
      await this.#run(
        [...fetch, '--', address.href, '+refs/heads/*:refs/heads/*', '+refs/tags/*:refs/tags/*'],
        config,
      );
      return await this.#commit(reference);
    }
  }

  /** The files of a commit as a tar stream. */
  archive(commit: string, signal: AbortSignal): Readable {
    const child = this.#start(['archive', '--format=tar', commit], {});
    const stop = (): void => kill(child);
    signal.addEventListener('abort', stop, { once: true });
    const exit = new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve(code ?? -1));
    });
    exit.catch(() => undefined);
    const bytes = async function* (): AsyncGenerator<Buffer, void, undefined> {
      try {
        yield* child.stdout as AsyncIterable<Buffer>;
        if ((await exit) !== 0) throw new StagingError('PEER_FAILED', 'git cannot read the commit');
      } finally {
        signal.removeEventListener('abort', stop);
        kill(child);
      }
    };
    return Readable.from(bytes(), { objectMode: false });
  }

  async submodules(commit: string): Promise<Submodule[]> {
    const file = await this.#run(['ls-tree', commit, '.gitmodules']);
    if (file === '') return [];
    const listed = await this.#run([
      ...['config', '--blob', `${commit}:.gitmodules`, '-z'],
      ...['--get-regexp', '^submodule\\..*\\.(path|url)$'],
    ]);
    const modules = new Map<string, { path?: string; url?: string }>();
    for (const line of listed.split('\0')) {
      const [, name = '', key = '', value = ''] =
        /^submodule\.([^]*)\.(path|url)\n([^]*)$/.exec(line) ?? [];
      if (key !== '') modules.set(name, { ...modules.get(name), [key]: value });
    }
    const found: Submodule[] = [];
    for (const { path, url } of modules.values()) {
      if (path === undefined || url === undefined) continue;
      const entry = await this.#run(['ls-tree', '-z', commit, '--', path]);
      const [, id] = /^160000 commit ([0-9a-f]+)\t/.exec(entry) ?? [];
      if (id !== undefined) found.push({ path, url, commit: id });
    }
    return found;
  }

  async #commit(name: string): Promise<string> {
    const id = (await this.#run(['rev-parse', '--verify', '--quiet', `${name}^{commit}`])).trim();
    if (commitId.test(id)) return id;
    throw new StagingError('NOT_FOUND', `there is no commit ${name}`);
  }

  /** git connects to an address that we have looked at, whatever the name means to it. */
  async #pin({ protocol, hostname, port }: URL): Promise<Environment> {
    const { guard } = this.#transfer.outside;
    guard.checkHost(hostname);
    const host = hostname.replace(/^\[|\]$/g, '');
    const addresses = await new Promise<string>((resolve, reject) => {
      guard.lookup(host, { all: true }, (error, found) => {
        if (error)
          reject(error instanceof StagingError ? error : new PassingError(errorText(error)));
        else if (typeof found === 'string') resolve(found);
        else
          resolve(
            found
              .map(({ address }) => (address.includes(':') ? `[${address}]` : address))
              .join(','),
          );
      });
    });
    const at = port !== '' ? port : protocol === 'https:' ? '443' : '80';
    return hostname.startsWith('[') ? {} : { 'http.curloptResolve': `${host}:${at}:${addresses}` };
  }

  async #checkVersion(): Promise<void> {
    const printed = await this.#run(['version']).catch((cause: unknown) => {
      throw new StagingError('PEER_FAILED', 'this server has no git', {}, { cause });
    });
    const [, major, minor] = /(\d+)\.(\d+)/.exec(printed)?.map(Number) ?? [];
    const [oldMajor, oldMinor] = oldestGit;
    if (
      major === undefined ||
      minor === undefined ||
      major < oldMajor ||
      (major === oldMajor && minor < oldMinor)
    )
      throw new StagingError(
        'PEER_FAILED',
        `this server's git is older than ${oldestGit.join('.')}`,
      );
  }

  /** @returns what it printed. @throws {@link StagingError}, {@link PassingError} with its message */
  async #run(args: readonly string[], config: Environment = {}): Promise<string> {
    const { signal } = this.#transfer;
    const child = this.#start(args, config);
    const stop = (): void => kill(child);
    signal.addEventListener('abort', stop, { once: true });
    let output = '';
    let errors = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.length > maxOutputBytes) stop();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-maxErrorBytes);
    });
    try {
      const [code] = (await once(child, 'close')) as [number | null];
      signal.throwIfAborted();
      if (code === 0) return output;
    } finally {
      signal.removeEventListener('abort', stop);
      kill(child);
    }
    const reason = `git ${args[0] ?? ''}: ${errors.trim().split('\n').at(-1) ?? ''}`;
    if (passing.test(errors)) throw new PassingError(reason);
    throw new StagingError(refused.test(errors) ? 'FORBIDDEN' : 'PEER_FAILED', reason);
  }

  #start(args: readonly string[], config: Environment): ChildProcess {
    const settings = Object.entries({ ...this.#config, ...config });
    const given = settings.flatMap(([key, value], at): [string, string][] => [
      [`GIT_CONFIG_KEY_${at}`, key],
      [`GIT_CONFIG_VALUE_${at}`, value],
    ]);
    const blocks = Math.ceil(this.#transfer.config.gitMaxBytes / 512);
    // the arguments are the shell's parameters, not its text
    return spawn(
      '/bin/sh',
      ['-c', 'ulimit -f "$1" && shift && exec git "$@"', 'sh', String(blocks), ...args],
      {
        cwd: this.#directory,
        detached: true, // a group of its own, so that its helpers end with it
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          PATH: process.env['PATH'],
          HOME: this.#directory,
          LC_ALL: 'C',
          GIT_DIR: this.#directory,
          GIT_CONFIG_NOSYSTEM: '1',
          GIT_CONFIG_GLOBAL: '/dev/null',
          GIT_TERMINAL_PROMPT: '0',
          GIT_ASKPASS: '/bin/false',
          GIT_CONFIG_COUNT: String(settings.length),
          ...Object.fromEntries(given),
        },
      },
    );
  }
}

function kill({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // it has ended
  }
}
