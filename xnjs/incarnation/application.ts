import type { IdbApplication } from '#imagerepo/contract.js';
import type { Idb } from '../idb/idb.js';
import type { JobDescription } from '../job/description.js';
import { JobError } from '../job/errors.js';

/** What is to be run, of the IDB's application and the job's own wishes. */
export type Application = {
  /** Shell text: a command, perhaps with options. */
  readonly executable: string | undefined;
  readonly arguments: readonly string[];
  /** The image creator's: `$X` in a value is expanded. */
  readonly siteEnvironment: Readonly<Record<string, string>>;
  /** The user's: taken as it is. */
  readonly userEnvironment: Readonly<Record<string, string>>;
  readonly prologue: string | undefined;
  readonly epilogue: string | undefined;
  /** Shell text, run on the login node before and after the job's own. */
  readonly preCommand?: string | undefined;
  readonly postCommand?: string | undefined;
  readonly runsOnLoginNode?: boolean;
  readonly ignoreNonZeroExitCode: boolean;
};

/** @throws {@link JobError} `APPLICATION_UNKNOWN` naming what there is */
export function resolveApplication(job: JobDescription, idb: Idb): Application {
  const entry = findApplication(job, idb);
  const userEnvironment = { ...job.Parameters, ...job.Environment };
  const siteEnvironment = Object.fromEntries(
    Object.entries(entry?.Environment ?? {}).filter(([name]) => !(name in userEnvironment)),
  );
  const isSet = (name: string): boolean => name in userEnvironment || name in siteEnvironment;
  return {
    executable: nonEmpty(job.Executable) ?? entry?.Executable,
    arguments: [
      ...(entry?.Arguments ?? []).flatMap((argument) => settle(argument, isSet)),
      ...job.Arguments,
    ],
    siteEnvironment,
    userEnvironment,
    prologue: joinLines(entry?.Prologue),
    epilogue: joinLines(entry?.Epilogue),
    ignoreNonZeroExitCode: job.IgnoreNonZeroExitCode || entry?.IgnoreNonZeroExitCode === true,
  };
}

function findApplication(job: JobDescription, idb: Idb): IdbApplication | undefined {
  const name = nonEmpty(job.ApplicationName);
  if (name === undefined) return undefined;
  const version = nonEmpty(job.ApplicationVersion);
  const named = idb.applications.filter((application) => application.Name === name);
  const chosen =
    version === undefined
      ? named.toSorted((a, b) => compareVersions(b.Version, a.Version))[0]
      : named.find((application) => application.Version === version);
  if (chosen) return chosen;
  const wanted = version === undefined ? name : `${name} ${version}`;
  const offered = idb.applications.map((a) => `${a.Name} ${a.Version}`).join(', ');
  throw new JobError(
    'APPLICATION_UNKNOWN',
    `ApplicationName: there is no application ${wanted} here; ` +
      (offered === '' ? 'the image provides none' : `there are: ${offered}`),
    { application: wanted },
  );
}

/** An entry that ends in `?` stays, without it, only if the first variable in it is set. */
function settle(argument: string, isSet: (name: string) => boolean): string[] {
  const [, plain, braced, percent] =
    /\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)\}|%([A-Za-z_]\w*)%/.exec(argument) ?? [];
  const name = plain ?? braced ?? percent;
  if (!argument.endsWith('?') || name === undefined) return [argument];
  return isSet(name) ? [argument.slice(0, -1)] : [];
}

/** The newest version is the one that a job gets which does not say. */
function compareVersions(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}

function joinLines(value: string | readonly string[] | undefined): string | undefined {
  return value === undefined || typeof value === 'string' ? value : value.join('\n');
}
