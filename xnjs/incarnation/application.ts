import type { IdbApplication } from '#imagerepo/contract.js';
import type { Idb } from '../idb/idb.js';
import type { JobDescription } from '../job/description.js';
import { JobError } from '../job/errors.js';
import { checkParameters } from './parameters.js';
import { compareVersions, parseVersionRange } from './version.js';

/** What is to be run, of the IDB's application and the job's own wishes. */
export type Application = {
  /** Shell text: a command, perhaps with options. */
  readonly executable: string | undefined;
  readonly arguments: readonly string[];
  /** The image creator's: `$X` in a value is expanded. */
  readonly siteEnvironment: Readonly<Record<string, string>>;
  /** The user's: taken as it is. */
  readonly userEnvironment: Readonly<Record<string, string>>;
  /** The IDB's own, before and after the job's script. */
  readonly preCommand: string | undefined;
  readonly postCommand: string | undefined;
  readonly prologue: string | undefined;
  readonly epilogue: string | undefined;
  /** Asked for by the application, by the job's type, or by `UC_PREFER_INTERACTIVE_EXECUTION`. */
  readonly runsOnLoginNode: boolean;
  readonly ignoreNonZeroExitCode: boolean;
  /** What the application asks for unless the job does. */
  readonly resources: Readonly<Record<string, string>>;
};

/**
 * @throws {@link JobError} `APPLICATION_UNKNOWN` naming what there is, `JOB_INVALID` for an option that is
 * not what the application says of it, or a command of the user's own where none are allowed
 */
export function resolveApplication(job: JobDescription, idb: Idb): Application {
  const entry = findApplication(job, idb);
  if (!idb.allowUserExecutable) refuseCommands(job);
  if (entry?.Parameters) checkParameters(job.Parameters, entry.Parameters);
  const userEnvironment = { ...job.Parameters, ...job.Environment };
  const siteEnvironment = Object.fromEntries(
    Object.entries(entry?.Environment ?? {}).filter(
      ([name]) => !Object.hasOwn(userEnvironment, name),
    ),
  );
  const isSet = (name: string): boolean =>
    Object.hasOwn(userEnvironment, name) || Object.hasOwn(siteEnvironment, name);
  const preference = { ...siteEnvironment, ...userEnvironment }['UC_PREFER_INTERACTIVE_EXECUTION'];
  return {
    executable: nonEmpty(job.Executable) ?? entry?.Executable,
    arguments: [
      ...(entry?.Arguments ?? []).flatMap((argument) => settle(argument, isSet)),
      ...job.Arguments,
    ],
    siteEnvironment,
    userEnvironment,
    preCommand: joinLines(entry?.PreCommand),
    postCommand: joinLines(entry?.PostCommand),
    prologue: joinLines(entry?.Prologue),
    epilogue: joinLines(entry?.Epilogue),
    runsOnLoginNode:
      entry?.RunOnLoginNode === true ||
      job['Job type'] === 'ON_LOGIN_NODE' ||
      preference?.toLowerCase() === 'true',
    ignoreNonZeroExitCode: job.IgnoreNonZeroExitCode || entry?.IgnoreNonZeroExitCode === true,
    resources: entry?.Resources ?? {},
  };
}

/** Exactly the version that is asked for; else the newest in the range; else, without any, the newest. */
function findApplication(job: JobDescription, idb: Idb): IdbApplication | undefined {
  const name = nonEmpty(job.ApplicationName);
  if (name === undefined) return undefined;
  const version = nonEmpty(job.ApplicationVersion);
  const named = idb.applications
    .filter((application) => application.Name === name)
    .toSorted((a, b) => compareVersions(b.Version, a.Version));
  const exact = named.find((application) => application.Version === version);
  const inRange = version === undefined ? () => true : parseVersionRange(version);
  const chosen = exact ?? (inRange && named.find((application) => inRange(application.Version)));
  if (chosen) return chosen;
  const wanted = version === undefined ? name : `${name} ${version}`;
  throw new JobError(
    'APPLICATION_UNKNOWN',
    [
      `ApplicationName: there is no application ${wanted} here; ${offered(idb)}`,
      ...(idb.problems ?? []),
    ].join('; '),
    { application: wanted },
  );
}

function offered({ applications }: Idb): string {
  if (applications.length === 0) return 'neither the image nor the site provides any';
  return `there are: ${applications.map(({ Name, Version }) => `${Name} ${Version}`).join(', ')}`;
}

function refuseCommands(job: JobDescription): void {
  for (const field of ['Executable', 'User precommand', 'User postcommand'] as const)
    if (nonEmpty(job[field]) !== undefined)
      throw new JobError(
        'JOB_INVALID',
        `${field}: this site runs the applications of its IDB only, no commands of users`,
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

function nonEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}

function joinLines(value: string | readonly string[] | undefined): string | undefined {
  return value === undefined || typeof value === 'string' ? value : value.join('\n');
}
