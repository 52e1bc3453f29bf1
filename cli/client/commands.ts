import { InvalidArgumentError, Option, type Command } from 'commander';
import { untilSignal } from '../signal.js';
import { openConsole, type ConsoleOptions } from './console.js';
import { showEvents, type EventQuery } from './events.js';
import { copyFile, listFiles, showFile } from './files.js';
import { forwardPort, type ForwardOptions } from './forward.js';
import { deleteImages, listImages, publishImage, showImage, type ImageQuery } from './images.js';
import {
  actOnJobs,
  deleteJobs,
  listJobs,
  runJob,
  showJob,
  showLog,
  waitForJob,
  type RunOptions,
} from './jobs.js';
import { printJson, printResult } from './print.js';
import { openSession, type Session } from './profile.js';
import {
  createSite,
  deleteSites,
  freezeSite,
  listSites,
  setRecovery,
  showSite,
  thawSite,
  type NewSite,
} from './sites.js';

/** What users and image creators do, over the public interface of an installation. */
export function addClientCommands(vsite: Command, image: Command): void {
  addRun(vsite);
  addFiles(vsite);
  addLive(vsite);
  addSites(vsite.command('site').description('target systems: machines made from images'));
  addJobs(vsite.command('job').description('jobs'));
  addImages(image);
}

/** A number that it comes to is the exit code. */
type Work = (session: Session, asJson: boolean, signal: AbortSignal) => Promise<unknown>;

function online(command: Command, work: (...args: never[]) => Work): void {
  command.action(async (...args: unknown[]) => {
    const { profile, json = false } = command.optsWithGlobals<GlobalOptions>();
    await using session = await openSession(profile);
    const code = await work(...(args as never[]))(session, json, untilSignal());
    if (typeof code === 'number') process.exitCode = code;
  });
}

function deleting(
  remove: (session: Session, ids: readonly string[], signal: AbortSignal) => Promise<void>,
): (ids: readonly string[]) => Work {
  return (ids) => async (session, json, signal) => {
    await remove(session, ids, signal);
    if (json) printJson({ deleted: ids });
  };
}

type GlobalOptions = { readonly profile?: string; readonly json?: boolean };

const repeated = (word: string, words: string[]): string[] => [...words, word];

function positive(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number > 0) return number;
  throw new InvalidArgumentError('must be a whole number above 0');
}

function withSize(command: Command): Command {
  return command
    .option('--cpus <number>', 'cores of the machine', positive)
    .option('--memory <MiB>', 'memory of the machine', positive)
    .option('--until <time>', 'when it ends: 18:00, 2030-01-31 18:00')
    .option('--tag <word>', 'to find it again; may be repeated', repeated, []);
}

function addRun(vsite: Command): void {
  const run = withSize(vsite.command('run [application] [arguments...]'))
    .description('run a job and show its output; ends with the exit code of the job')
    .option('--version <version>', 'of the application')
    .option('--executable <shell>', 'a command instead of an application')
    .option('--param <NAME=value>', 'a parameter; may be repeated', repeated, [])
    .option('--resource <Name=value>', 'Runtime=1h, CPUs=2; may be repeated', repeated, [])
    .option('--input <file[:name]>', 'goes into the job directory; may be repeated', repeated, [])
    .option('--output <name[:file]>', 'is fetched in the end; may be repeated', repeated, [])
    .addOption(
      new Option('--site <id>', 'target system; else the server chooses').conflicts('image'),
    )
    .option('--image <name>', 'on a target system of its own, deleted afterwards')
    .option('--keep', 'do not delete that target system')
    .option('--detach', 'print the id of the job and do not wait');
  online(
    run,
    (application: string | undefined, words: string[], options: Omit<RunOptions, 'asJson'>): Work =>
      (session, asJson, signal) =>
        runJob(session, application, words, { ...options, asJson }, signal),
  );
}

function addFiles(vsite: Command): void {
  const where = 'job/<id>:name, site/<id>:name or <storage>:name';
  online(
    vsite.command('ls <path>').description(`list a directory: ${where}`),
    (path: string): Work =>
      (session, json) =>
        listFiles(session, path, json),
  );
  online(
    vsite.command('cat <path>').description(`write a file to standard output: ${where}`),
    (path: string): Work =>
      (session, _json, signal) =>
        showFile(session, path, signal),
  );
  online(
    vsite.command('cp <from> <to>').description(`copy a file to or from a storage: ${where}`),
    (from: string, to: string): Work =>
      async (session, json, signal) => {
        await copyFile(session, from, to, signal);
        if (json) printJson({ from, to });
      },
  );
}

function addLive(vsite: Command): void {
  const forward = vsite
    .command('forward <job> <ports>')
    .description('reach a service near a job at a port here: 8080:80, 8080:node7:80, 8080:its.sock')
    .option('--bind <address>', 'listens here', '127.0.0.1')
    .option('--login-node <name>', 'of a target system that has several');
  online(
    forward,
    (job: string, ports: string, options: ForwardOptions): Work =>
      (session, asJson, signal) =>
        forwardPort(session, job, ports, options, { asJson, signal }),
  );
  const events = vsite
    .command('events')
    .description('what becomes of your jobs, target systems and images, as it happens')
    .option('--types <types>', 'of job, site, image; separated by commas')
    .option('--since <id>', 'what came after this event too');
  online(
    events,
    (query: EventQuery): Work =>
      (session, json, signal) =>
        showEvents(session, query, json, signal),
  );
}

function addSites(site: Command): void {
  online(
    site.command('list').description('your target systems'),
    (): Work => (session, json) => listSites(session, json),
  );
  online(
    site.command('show <id>').description('all about one'),
    (id: string): Work =>
      (session) =>
        showSite(session, id),
  );
  online(
    withSize(site.command('create <image>').description('make one and wait until it is ready')),
    (image: string, options: NewSite): Work =>
      async (session, json, signal) => {
        const id = await createSite(session, image, options, signal);
        printResult({ id }, id, json);
      },
  );
  online(
    site
      .command('console <id>')
      .description('type at the console of its machine, until Ctrl-]')
      .option('--log', 'only the end of what the machine wrote to it')
      .option('--watch', 'look on while others type')
      .option('--force', 'take it over from whoever types'),
    (id: string, options: ConsoleOptions): Work =>
      (session, _json, signal) =>
        openConsole(session, id, options, signal),
  );
  online(
    site.command('freeze <id>').description('park one on disk with its running jobs'),
    (id: string): Work =>
      (session, _json, signal) =>
        freezeSite(session, id, signal),
  );
  online(
    site.command('thaw <id>').description('bring one back from disk; its jobs go on'),
    (id: string): Work =>
      (session, _json, signal) =>
        thawSite(session, id, signal),
  );
  online(
    site
      .command('recovery <id> <policy>')
      .description('what is done when its machine stops by itself: none or restart'),
    (id: string, policy: string): Work =>
      (session) =>
        setRecovery(session, id, policy),
  );
  online(
    site.command('delete <id...>').description('end target systems with their machines and jobs'),
    deleting(deleteSites),
  );
}

function addJobs(job: Command): void {
  const list = job
    .command('list')
    .description('your jobs, the newest first')
    .option('--tag <word>', 'those with this tag')
    .option('--num <number>', 'how many at the most', positive, 20);
  online(
    list,
    (options: { tag?: string; num: number }): Work =>
      (session, json) =>
        listJobs(session, options, json),
  );
  online(
    job.command('show <id>').description('all about one'),
    (id: string): Work =>
      (session) =>
        showJob(session, id),
  );
  online(
    job.command('log <id>').description('what happened to it'),
    (id: string): Work =>
      (session, json) =>
        showLog(session, id, json),
  );
  online(
    job.command('wait <id>').description('wait for its end; ends with its exit code'),
    (id: string): Work =>
      async (session, json, signal) => {
        const code = await waitForJob(session, id, signal);
        if (json) await showJob(session, id);
        return code;
      },
  );
  for (const [action, text] of [
    ['start', 'let jobs go on that wait for input files'],
    ['abort', 'end jobs'],
    ['restart', 'run jobs again that are over'],
  ] as const)
    online(
      job.command(`${action} <id...>`).description(text),
      (ids: string[]): Work =>
        async (session, json) => {
          await actOnJobs(session, action, ids);
          if (json) printJson({ [action]: ids });
        },
    );
  online(
    job.command('delete <id...>').description('end jobs and remove their directories'),
    deleting(deleteJobs),
  );
}

function addImages(image: Command): void {
  const list = image
    .command('list')
    .description('images that you may use')
    .option('--application <name>', 'those that provide it')
    .option('--name <name>', 'those of this name');
  online(
    list,
    (options: ImageQuery): Work =>
      (session, json) =>
        listImages(session, options, json),
  );
  online(
    image.command('show <id>').description('all about one'),
    (id: string): Work =>
      (session) =>
        showImage(session, id),
  );
  online(
    image
      .command('publish <metadata> <part=file...>')
      .description('upload an image and make it usable: metadata.yaml kernel=vmlinuz initrd=…'),
    (metadata: string, parts: string[]): Work =>
      async (session, json, signal) => {
        const id = await publishImage(session, metadata, parts, signal);
        printResult({ id }, id, json);
      },
  );
  online(
    image.command('delete <id...>').description('delete images of yours'),
    deleting(deleteImages),
  );
}
