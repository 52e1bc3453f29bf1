import { Option, type Command } from 'commander';
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
import { deleting, online, positive, repeated, withSize, type Work } from './online.js';
import { printJson, printResult } from './print.js';
import { addSites } from './site-commands.js';
import { addVolumes } from './volumes.js';

/** What users and image creators do, over the public interface of an installation. */
export function addClientCommands(vsite: Command, image: Command): void {
  addRun(vsite);
  addFiles(vsite);
  addLive(vsite);
  addSites(vsite.command('site').description('target systems: machines made from images'));
  addVolumes(vsite.command('volume').description('disks that outlive target systems'));
  addJobs(vsite.command('job').description('jobs'));
  addImages(image);
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
