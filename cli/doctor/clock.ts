import { execFile } from 'node:child_process';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { promisify } from 'node:util';
import type { Configuration } from './configuration.js';
import { bad, doubtful, good, together, type Finding } from './finding.js';

const run = promisify(execFile);
const callMs = 5_000;
/** The least that tokens between servers may be off (kernel/security/consignor-token.ts). */
const mostSeconds = 30;
const doubtfulSeconds = 5;
const keepTime = 'keep the clock in time by NTP: install chrony, or run: timedatectl set-ntp true';

/** By what keeps it in time, and by the clocks of the servers that the configuration names. */
export async function checkClock(configuration: Configuration): Promise<Finding> {
  const [isSynchronized, ...compared] = await Promise.all([
    isKeptInTime(),
    ...serversOf(configuration).map(compare),
  ]);
  const known = compared.filter((each) => each !== undefined);
  const now = new Date().toISOString();
  const text = known.length > 0 ? `${now}, as ${known.length} other servers say` : now;
  if (isSynchronized === false)
    known.push(doubtful(`it is ${now} here, and nothing keeps that in time`, keepTime));
  else if (isSynchronized === undefined && known.length === 0)
    known.push(
      doubtful(
        `it is ${now} here; neither timedatectl nor chronyc can tell whether it is right, and no other server does`,
        keepTime,
      ),
    );
  return together(known, text);
}

/** `undefined`: nobody here can tell. */
async function isKeptInTime(): Promise<boolean | undefined> {
  const ask = async (program: string, ...args: string[]): Promise<string | undefined> =>
    await run(program, args, { timeout: callMs }).then(
      ({ stdout }) => stdout.trim(),
      () => undefined,
    );
  const kernel = await ask('timedatectl', 'show', '--property=NTPSynchronized', '--value');
  if (kernel === 'yes' || kernel === 'no') return kernel === 'yes';
  const tracking = await ask('chronyc', '-c', 'tracking');
  return tracking === undefined ? undefined : !tracking.endsWith('Not synchronised');
}

function serversOf({ gateway, targetsystem }: Configuration): string[] {
  const { gateways, registry, bearers, xnjs } = targetsystem;
  const takers = [...xnjs.staging.trustedSites, ...xnjs.jobs.notifications.trustedReceivers];
  const urls = [
    ...[...gateways, ...registry.external, ...takers].map(({ url }) => url),
    ...[...bearers.oidc, ...(gateway.apiTokens ? [gateway.apiTokens] : [])].map(
      ({ issuer }) => issuer,
    ),
  ];
  return [...new Set(urls.map((url) => new URL(url).origin))];
}

/** @returns nothing where it does not answer: that is no fault of the clock */
async function compare(origin: string): Promise<Finding | undefined> {
  const began = Date.now();
  const theirs = await dateOf(origin).catch(() => undefined);
  if (theirs === undefined) return undefined;
  const middle = (began + Date.now()) / 2;
  const seconds = Math.round((middle - theirs) / 1_000);
  const off = Math.abs(seconds);
  const text = `it is ${off} s ${seconds < 0 ? 'earlier' : 'later'} here than at ${origin}`;
  if (off > mostSeconds) return bad(`${text}: it takes no token of ours`, keepTime);
  return off > doubtfulSeconds ? doubtful(text, keepTime) : good(text);
}

/** What it says of itself, to half a second; who lies misleads this sentence only. */
async function dateOf(origin: string): Promise<number | undefined> {
  const isTls = origin.startsWith('https:');
  const options = { method: 'HEAD', signal: AbortSignal.timeout(callMs), agent: false } as const;
  return await new Promise((resolve, reject) => {
    const request = isTls
      ? requestHttps(origin, { ...options, rejectUnauthorized: false })
      : requestHttp(origin, options);
    request.once('error', reject);
    request.once('response', (response) => {
      response.destroy();
      const ms = Date.parse(response.headers.date ?? '');
      resolve(Number.isNaN(ms) ? undefined : ms + 500);
    });
    request.end();
  });
}
