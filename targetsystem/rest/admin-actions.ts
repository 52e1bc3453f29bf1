import { RequestError, type Context } from '#kernel/http/operation.js';
import { normalizeDn } from '#kernel/security/dn.js';
import { jobStatus } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { renderHost } from './admin-hosts.js';
import { idbOfFactory } from './factories.js';
import { linksFrom } from './links.js';
import { renderResources } from './sites-rendering.js';
import { renderSums } from './usage-rendering.js';

type Parameters = Readonly<Record<string, string>>;
type Outcome = { readonly message: string; readonly results?: Readonly<Record<string, unknown>> };
export type AdminAction = {
  /** For people: what it does, and what its parameters mean. */
  readonly description: string;
  /** Others are refused: an order whose bound is misspelt would go beyond it. */
  readonly parameters: readonly string[];
  readonly run: (
    deps: RestDeps,
    parameters: Parameters,
    context: Context,
  ) => Outcome | Promise<Outcome>;
};

const mostListed = 1_000;
const longestTokenSeconds = 365 * 86_400;

/** What an administrator may order (unicore-rest 3.18); `ListJobs` is ours. */
export const adminActions: Readonly<Record<string, AdminAction>> = {
  ToggleJobSubmission: {
    description: 'Stops or resumes taking jobs. Parameters: message, which refused users are told',
    parameters: ['message'],
    run: async ({ submission }, { message = '' }) => {
      const enabled = !submission.state.enabled;
      await submission.set({ enabled, message: enabled ? '' : message });
      return { message: `Job submission is now ${enabled ? 'enabled' : 'disabled'}` };
    },
  },

  ShowServerUsageOverview: {
    description: 'What each user has here. Parameters: clientDN, a part of the name',
    parameters: ['clientDN'],
    run: async ({ jobs, systems }, { clientDN = '' }) => {
      const results: Record<string, object> = {};
      const ofJobs = new Map((await jobs.usage()).map((usage) => [usage.ownerDn, usage]));
      const used = new Map((await systems.usageByOwner()).map((sums) => [sums.ownerDn, sums]));
      const all = systems.list();
      const users = new Set([
        ...ofJobs.keys(),
        ...used.keys(),
        ...all.map(({ ownerDn }) => ownerDn),
      ]);
      for (const dn of [...users].filter((each) => isMeant(each, clientDN)).sort()) {
        const machines = all.filter(({ ownerDn }) => ownerDn === dn);
        const sums = used.get(dn);
        const { total = 0, unfinished = 0 } = ofJobs.get(dn) ?? {};
        results[dn] = {
          jobs: total,
          unfinishedJobs: unfinished,
          targetSystems: machines.length,
          cpus: machines.reduce((sum, { parameters }) => sum + parameters.cpus, 0),
          memoryMiB: machines.reduce((sum, { parameters }) => sum + parameters.memoryMiB, 0),
          ...(sums && { usage: renderSums(sums) }),
        };
      }
      return { message: `${Object.keys(results).length} users have something here`, results };
    },
  },

  ListJobs: {
    description: 'Addresses and states of jobs, the newest first. Parameters: clientDN, num',
    parameters: ['clientDN', 'num'],
    run: async ({ jobs }, { clientDN, num = '100' }, { baseUrl }) => {
      const wanted = readNumber('num', num, mostListed);
      const owner = clientDN === undefined ? {} : { ownerDn: normalizeDn(clientDN) };
      const { ids, total } = await jobs.list({ ...owner, offset: 0, num: wanted });
      const results: Record<string, string> = {};
      for (const id of ids) {
        const job = await jobs.get(id).catch(() => undefined); // may be gone by now
        if (job) results[linksFrom(baseUrl).job(id)] = `${jobStatus(job)} ${job.ownerDn}`;
      }
      return { message: `${Object.keys(results).length} of ${total} jobs`, results };
    },
  },

  ShowJobDetails: {
    description: 'All that the server knows of a job. Parameters: jobID',
    parameters: ['jobID'],
    run: async ({ jobs }, parameters) => {
      const job = await jobs.get(required(parameters, 'jobID'));
      const results = { ...job, status: jobStatus(job) };
      return { message: `Job ${job.id} of ${job.ownerDn} is ${job.state}`, results };
    },
  },

  AbortJob: {
    description: 'Ends a job. Parameters: jobID; cleanup, true: removes it with its directory',
    parameters: ['jobID', 'cleanup'],
    run: async ({ jobs }, parameters) => {
      const id = required(parameters, 'jobID');
      const cleanup = parameters['cleanup']?.toLowerCase() === 'true';
      await (cleanup ? jobs.destroy(id) : jobs.abort(id));
      return { message: `Job ${id} is being ${cleanup ? 'removed' : 'aborted'}` };
    },
  },

  ListPartitions: {
    description: 'The queues of the site and of its target systems, and what jobs may ask of them',
    parameters: [],
    run: (deps) => {
      const site = renderResources(idbOfFactory(deps));
      return { message: `The site offers ${Object.keys(site).join(', ')}`, results: site };
    },
  },

  IssueAPIToken: {
    description:
      'Makes a token for a user. Parameters: clientDN, lifetime in seconds (3600), renewable, limited',
    parameters: ['clientDN', 'lifetime', 'renewable', 'limited'],
    run: async ({ issueToken, clock, credential }, parameters) => {
      const subject = normalizeDn(required(parameters, 'clientDN'));
      const { lifetime = '3600', renewable, limited } = parameters;
      const most = Math.floor((credential.expiresMs - clock.now()) / 1_000);
      const token = await issueToken({
        subject,
        lifetimeSeconds: readNumber('lifetime', lifetime, Math.min(longestTokenSeconds, most)),
        renewable: renewable === 'true',
        limited: limited === 'true',
      });
      return { message: `A token for ${subject}`, results: { token } };
    },
  },

  ResourceAvailability: {
    description: 'What the hosts of machines have, and what of it is used. Parameters: host',
    parameters: ['host'],
    run: ({ systems }, { host }) => {
      const hosts = systems.places.list().filter(({ name }) => host === undefined || name === host);
      if (host !== undefined && hosts.length === 0)
        throw new RequestError('NOT_FOUND', `host: there is no host ${host}`);
      const takes = hosts.filter(
        ({ isDrained, loss, drivers }) => !isDrained && !loss && drivers.some(({ isUp }) => isUp),
      );
      return {
        message: `${takes.length} of ${hosts.length} hosts take machines`,
        results: Object.fromEntries(hosts.map((each) => [each.name, renderHost(each)])),
      };
    },
  },

  FreezeTargetSystems: {
    description:
      'Parks all machines on disk that can be, since their host is to be maintained; owners cannot bring them back. Parameters: host; absent: of all',
    parameters: ['host'],
    run: async ({ systems }, { host }) => toOutcome(await systems.parking.freezeAll(host)),
  },

  ThawTargetSystems: {
    description:
      'Brings back what FreezeTargetSystems has parked. Parameters: host; absent: of all',
    parameters: ['host'],
    run: async ({ systems }, { host }) => toOutcome(await systems.parking.thawAll(host)),
  },

  DrainHost: {
    description:
      'Lets a host take no new machines; those that are there stay. Parameters: host; drain, false: it takes them again',
    parameters: ['host', 'drain'],
    run: async ({ systems }, parameters) => {
      const host = required(parameters, 'host');
      const isDrained = readFlag('drain', parameters['drain'] ?? 'true');
      await systems.places.drain(host, isDrained);
      return { message: `Host ${host} takes ${isDrained ? 'no ' : ''}new machines` };
    },
  },

  DeclareHostLost: {
    description:
      'Says that a host never comes back: its target systems end, or go on elsewhere where their recovery and files allow it. Parameters: host; confirm, its name once more; lost, false: it is one like others again',
    parameters: ['host', 'confirm', 'lost'],
    run: async ({ systems }, parameters, { caller, audit, url }) => {
      const host = required(parameters, 'host');
      const isLost = readFlag('lost', parameters['lost'] ?? 'true');
      if (required(parameters, 'confirm') !== host)
        throw new RequestError('BAD_REQUEST', `confirm: must be ${host}, the name of the host`);
      const tell = (why: string): void =>
        audit?.({
          what: 'access',
          allowed: true,
          why,
          caller,
          operation: 'DeclareHostLost',
          resource: url,
        });
      if (!isLost) {
        await systems.lostHosts.takeBack(host);
        tell(`host ${host} is not lost any more`);
        return { message: `Host ${host} is not lost any more; what ended with it stays ended` };
      }
      const results = await systems.lostHosts.declare(host, caller.dn);
      tell(`host ${host} is declared lost`);
      const number = Object.keys(results).length;
      return { message: `Host ${host} is declared lost, with ${number} target systems`, results };
    },
  },

  GetMemoryUsage: {
    description: 'How much memory the server has, in bytes',
    parameters: [],
    run: () => ({ message: 'OK', results: { ...process.memoryUsage() } }),
  },
};

/** @throws `BAD_REQUEST` naming the parameter that the action does not have */
export function requireKnown(name: string, { parameters }: AdminAction, given: Parameters): void {
  const unknown = Object.keys(given).find((each) => !parameters.includes(each));
  if (unknown === undefined) return;
  const has = parameters.length > 0 ? `it has ${parameters.join(', ')}` : 'it has none';
  throw new RequestError('BAD_REQUEST', `${unknown}: is no parameter of ${name}; ${has}`);
}

function toOutcome(results: Readonly<Record<string, string>>): Outcome {
  return { message: `${Object.keys(results).length} target systems`, results };
}

function isMeant(dn: string, part: string): boolean {
  return dn.toLowerCase().includes(part.toLowerCase());
}

function required(parameters: Parameters, name: string): string {
  const value = parameters[name];
  if (value !== undefined && value !== '') return value;
  throw new RequestError('BAD_REQUEST', `${name}: must be given`);
}

function readFlag(name: string, text: string): boolean {
  if (text === 'true' || text === 'false') return text === 'true';
  throw new RequestError('BAD_REQUEST', `${name}: must be true or false`);
}

function readNumber(name: string, text: string, most: number): number {
  const number = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (number >= 1 && number <= most) return number;
  throw new RequestError('BAD_REQUEST', `${name}: must be a number from 1 to ${most}`);
}
