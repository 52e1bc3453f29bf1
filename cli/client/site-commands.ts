import { InvalidArgumentError, Option, type Command } from 'commander';
import { assignments } from './assignments.js';
import { openConsole, type ConsoleOptions } from './console.js';
import { showOffer } from './offer.js';
import { deleting, localPort, online, positive, repeated, withSize, type Work } from './online.js';
import { printJson, printResult } from './print.js';
import { openScreen, type ScreenOptions } from './screen.js';
import {
  changeSite,
  createSite,
  deleteSites,
  endActions,
  freezeSite,
  listSites,
  planSite,
  recoveries,
  showSite,
  thawSite,
  type NewSite,
  type Wanted,
} from './sites.js';
import {
  deleteSnapshots,
  listSnapshots,
  revertSite,
  saveImage,
  takeSnapshot,
  type NewImageOptions,
} from './snapshots.js';

type CreateOptions = { readonly require?: readonly string[]; readonly dryRun?: boolean };

function wantedImage(image: string | undefined, required: readonly string[] = []): Wanted {
  if ((image === undefined) === (required.length === 0))
    throw new InvalidArgumentError('name an image, or what it must have by --require');
  if (image !== undefined) return image;
  return assignments('--require', required);
}

function oneOf(flags: string, description: string, words: readonly string[]): Option {
  return new Option(flags, description).choices(words);
}

/** Target systems. */
export function addSites(site: Command): void {
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
    .option('--pinned', 'cores of its own, where the site has such')
    .addOption(oneOf('--at-end <action>', 'when its life time is over', endActions))
    .option('--idle <seconds>', 'how long nobody may use it', positive)
    .addOption(oneOf('--idle-action <action>', 'what is done then', endActions))
    .addOption(oneOf('--recovery <policy>', 'when its machine stops by itself', recoveries))
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
