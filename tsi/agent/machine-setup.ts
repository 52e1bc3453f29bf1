import { execFile } from 'node:child_process';
import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import type { MachineSetup, SetupReport, VolumeReport } from '../protocol/machine-setup.js';
import { isExecutable } from './kernel-calls.js';
import type { Settings } from './settings.js';
import type { Users } from './users.js';
import { mountVolume } from './volumes.js';

const run = promisify(execFile);
/** What an image may bring along for what only its creator knows of. */
const hook = '/usr/lib/vsite/setup';
const hookTimeoutMs = 30_000;
const longestProblem = 500;

export type MachineSetupOptions = {
  readonly settings: Pick<Settings, 'setupFile' | 'path'>;
  readonly users: Pick<Users, 'resolve'>;
};

/** Gives this machine what its owner has asked for (ADR 040). */
export class MachineSetupWork {
  readonly #options: MachineSetupOptions;
  #last: { readonly wish: string; readonly report: SetupReport } | undefined;
  /** One after the other: two connections may ask at once. */
  #running: Promise<unknown> = Promise.resolve();

  constructor(options: MachineSetupOptions) {
    this.#options = options;
  }

  /** What cannot be done is told; all else is. */
  async perform(setup: MachineSetup): Promise<SetupReport> {
    const work = this.#running.then(() => this.#perform(setup));
    this.#running = work.catch(() => undefined);
    return await work;
  }

  async #perform(setup: MachineSetup): Promise<SetupReport> {
    // who has had a volume says nothing of what is to be done
    const wish = JSON.stringify(setup, (name, value: unknown) => (name === 'isNew' ? 0 : value));
    if (this.#last?.wish === wish) return this.#last.report;
    const volumes: VolumeReport[] = [];
    for (const volume of setup.volumes)
      volumes.push(await mountVolume(volume, () => this.#ownerOf(setup)));
    const problem = await this.#tell(setup, volumes);
    const report = { volumes, ...(problem !== undefined && { problem }) };
    if (problem === undefined && volumes.every((volume) => volume.problem === undefined))
      this.#last = { wish, report };
    return report;
  }

  async #ownerOf({ login }: MachineSetup): Promise<{ uid: number; gid: number }> {
    return await this.#options.users.resolve({ login, groups: 'DEFAULT_GID' });
  }

  /** Programs of the image. @returns what went wrong */
  async #tell(
    { variables: given }: MachineSetup,
    volumes: readonly VolumeReport[],
  ): Promise<string | undefined> {
    const { setupFile, path } = this.#options.settings;
    const variables = { ...given, ...volumeVariables(volumes) };
    try {
      replaceFile(setupFile, variablesText(variables));
      if (isExecutable(hook))
        await run(hook, [], {
          timeout: hookTimeoutMs,
          env: { PATH: path, ...variables },
        });
      return undefined;
    } catch (error) {
      const { stderr = '' } = error as { stderr?: string };
      const text = stderr.trim() === '' ? errorText(error) : `${hook}: ${stderr.trim()}`;
      return text.slice(0, longestProblem);
    }
  }
}

/** Where each is: its directory, else its device. */
export function volumeVariables(volumes: readonly VolumeReport[]): Record<string, string> {
  return Object.fromEntries(
    volumes.flatMap(({ serial, path, device }) => {
      const where = path ?? device;
      return where === undefined ? [] : [[`VSITE_VOLUME_${serial}`, where]];
    }),
  );
}

/** For `.` of a shell, and for systemd's `EnvironmentFile`. */
function variablesText(variables: Readonly<Record<string, string>>): string {
  return Object.entries(variables)
    .map(([name, value]) => `${name}='${value.replaceAll("'", `'\\''`)}'\n`)
    .join('');
}

/** Never through a link, and for everybody to read. */
function replaceFile(path: string, text: string): void {
  if (isThere(path, text)) return;
  rmSync(path, { force: true });
  writeFileSync(path, text, { flag: 'wx' });
  chmodSync(path, 0o644);
}

function isThere(path: string, text: string): boolean {
  try {
    return readFileSync(path, 'utf8') === text;
  } catch {
    return false;
  }
}
