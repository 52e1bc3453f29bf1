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
import { showOffer } from './offer.js';
import { openScreen, type ScreenOptions } from './screen.js';
import {
  deleteSnapshots,
  listSnapshots,
  revertSite,
  saveImage,
  takeSnapshot,
  type NewImageOptions,
} from './snapshots.js';
import {
  changeSite,
  createSite,
  deleteSites,
  freezeSite,
  listSites,
  planSite,
  showSite,
  thawSite,
  type NewSite,
  type Wanted,
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

const repeated = (word: string, words: string[] = []): string[] => [...words, word];

function positive(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number > 0) return number;
  throw new InvalidArgumentError('must be a whole number above 0');
}

function localPort(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number >= 0 && number <= 65_535) return number;
  throw new InvalidArgumentError('must be a port, 0 to 65535');
}

function withSize(command: Command): Command {
  return command
    .option('--cpus <number>', 'cores of the machine', positive)
    .option('--memory <MiB>', 'memory of the machine', positive)
    .option('--disk <MiB>', 'its disk, where the image has one', positive)
    .option('--flavour <name>', 'its size by name: vsite site offer')
    .option('--host-label <label>', 'what its host must have; may be repeated', repeated, [])
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

type CreateOptions = { readonly require?: readonly string[]; readonly dryRun?: boolean };

function wantedImage(image: string | undefined, required: readonly string[] = []): Wanted {
  if ((image === undefined) === (required.length === 0))
    throw new InvalidArgumentError('name an image, or what it must have by --require');
  if (image !== undefined) return image;
  return Object.fromEntries(
    required.map((entry) => {
      const at = entry.indexOf('=');
      if (at < 1) throw new InvalidArgumentError(`--require ${entry}: must be name=value`);
      return [entry.slice(0, at), entry.slice(at + 1)];
    }),
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
    site.command('offer').description('what you may have: flavours, quotas, prices'),
    (): Work => (session, json) => showOffer(session, json),
  );
  const create = withSize(site.command('create [image]'))
    .description('make one and wait until it is ready')
    .option('--require <name=value>', 'instead of an image: os=Debian; may be repeated', repeated)
    .option('--dry-run', 'tell what would be made, what it costs and how long it takes');
  online(
    create,
    (image: string | undefined, options: NewSite & CreateOptions): Work =>
      async (session, json, signal) => {
        const wanted = wantedImage(image, options.require);
        if (options.dryRun) {
          await planSite(session, wanted, options, json);
          return;
        }
        const id = await createSite(session, wanted, options, signal);
        printResult({ id }, id, json);
      },
  );
  addMachines(site);
  addStates(site);
  online(
    site.command('delete <id...>').description('end target systems with their machines and jobs'),
    deleting(deleteSites),
  );
}

/** What is done with the machine of a target system. */
function addMachines(site: Command): void {
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
    site
      .command('screen <id>')
      .description('its screen, for viewers of VNC that connect to a port here, until Ctrl-C')
      .option('--picture <file>', 'only a picture of it, in PNG')
      .option('--bind <address>', 'where to listen', '127.0.0.1')
      .option('--port <number>', 'the port; 0: a free one', localPort, 0),
    (id: string, options: ScreenOptions): Work =>
      (session, asJson, signal) =>
        openScreen(session, id, options, { asJson, signal }),
  );
}

/** What becomes of it over time. */
function addStates(site: Command): void {
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
      .description('what is done when its machine stops by itself: none, restart or restore'),
    (id: string, policy: string): Work =>
      (session) =>
        changeSite(session, id, { recovery: policy }),
  );
  online(
    site
      .command('at-end <id> <action>')
      .description('what is done when its life time is over: destroy or freeze'),
    (id: string, endAction: string): Work =>
      (session) =>
        changeSite(session, id, { endAction }),
  );
  online(
    site
      .command('idle <id> <seconds> [action]')
      .description('what is done when nobody has used it for so long: destroy or freeze'),
    (id: string, seconds: string, action: string | undefined): Work =>
      (session) =>
        changeSite(session, id, {
          idleSeconds: positive(seconds),
          ...(action !== undefined && { idleAction: action }),
        }),
  );
  addSnapshots(site.command('snapshot').description('machines as they were at earlier moments'));
  online(
    site
      .command('save-image <id> <version>')
      .description('publish the disk of its machine as a new version of its image, as yours')
      .option('--name <name>', 'another name than that of its image')
      .option('--description <text>', 'another description')
      .option('--public', 'for all users of the site, as its image is')
      .option('--snapshot <id>', 'as it was then'),
    (id: string, version: string, options: NewImageOptions): Work =>
      async (session, json, signal) => {
        const imageId = await saveImage(session, id, version, options, signal);
        printResult({ id: imageId }, imageId, json);
      },
  );
}

function addSnapshots(snapshot: Command): void {
  online(
    snapshot
      .command('take <site> [name]')
      .description('keep a machine as it is now; it stands still meanwhile'),
    (site: string, name: string | undefined): Work =>
      async (session, json, signal) => {
        const id = await takeSnapshot(session, site, name, signal);
        printResult({ id }, id, json);
      },
  );
  online(
    snapshot.command('list <site>').description('what is kept of a machine'),
    (site: string): Work =>
      (session, json) =>
        listSnapshots(session, site, json),
  );
  online(
    snapshot
      .command('revert <site> <id>')
      .description('put a machine back; what it did since is lost'),
    (site: string, id: string): Work =>
      (session, _json, signal) =>
        revertSite(session, site, id, signal),
  );
  online(
    snapshot.command('delete <site> <id...>').description('forget snapshots'),
    (site: string, ids: readonly string[]): Work =>
      async (session, json) => {
        await deleteSnapshots(session, site, ids);
        if (json) printJson({ deleted: ids });
      },
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
