import { lookup as lookupCallback, type LookupAddress } from 'node:dns';
import { readFile } from 'node:fs/promises';
import { BlockList, isIP } from 'node:net';
import { rootCertificates } from 'node:tls';
import { Agent } from 'undici';
import { GridError } from '#kernel/errors.js';
import { linkSignals, startDeadline } from '#kernel/net/deadline.js';
import { createReceiverTokens, type IssueToken } from '../staging/site-tokens.js';
import type { JobConfig } from './config.js';

export type NoticeSenderOptions = {
  readonly allowLocalTargets: boolean;
  readonly timeoutMs: number;
  /** PEM of authorities that are trusted besides the well-known ones. */
  readonly trusted?: readonly string[];
  /** Our word for a user, for receivers that get it; absent: none does. */
  readonly onBehalfOf?: (ownerDn: string, receiver: URL) => Promise<string | undefined>;
};

/** What is to be told, where, and for whom. */
export type Message = {
  readonly url: string;
  readonly ownerDn: string;
  readonly body: object;
};

/** Posts one notification. @throws `SITE_UNAVAILABLE` another try may help, `BAD_REQUEST` none will */
export type NoticeSender = Disposable & {
  send(message: Message, signal: AbortSignal): Promise<void>;
};

/** As the configuration says. */
export async function openNoticeSender(
  config: JobConfig['notifications'],
  issueToken: IssueToken,
): Promise<NoticeSender> {
  const trusted = await Promise.all(config.trustFiles.map((path) => readFile(path, 'utf8')));
  const onBehalfOf = createReceiverTokens(config.trustedReceivers, issueToken);
  return createNoticeSender({ ...config, trusted, onBehalfOf });
}

/** This host itself, and what only holds on one link: among it the metadata services of clouds. */
const local = new BlockList();
local.addSubnet('0.0.0.0', 8);
local.addSubnet('127.0.0.0', 8);
local.addSubnet('169.254.0.0', 16);
local.addAddress('::', 'ipv6');
local.addAddress('::1', 'ipv6');
local.addSubnet('fe80::', 10, 'ipv6');

/** What the receiver says is not read beyond its status; redirects are not followed (docs/adr/012). */
export function createNoticeSender(options: NoticeSenderOptions): NoticeSender {
  const { allowLocalTargets, timeoutMs, trusted = [], onBehalfOf } = options;
  const guarded = allowLocalTargets ? {} : { lookup: guardedLookup };
  const ca = trusted.length > 0 && { ca: [...rootCertificates, ...trusted] };
  const connect = { timeout: timeoutMs, ...guarded, ...ca };
  const agent = new Agent({ connections: 4, connect });
  return {
    async send(message, outer) {
      const url = new URL(message.url);
      if (url.protocol !== 'http:' && url.protocol !== 'https:')
        throw new GridError('BAD_REQUEST', 'only http and https addresses are notified');
      const literal = url.hostname.replace(/^\[|\]$/g, '');
      if (!allowLocalTargets && isIP(literal) > 0) refuseLocal(literal);
      // made anew for each try, and stored nowhere
      const authorization = basic(url) ?? bearer(await onBehalfOf?.(message.ownerDn, url));
      using deadline = startDeadline(timeoutMs, () => new Error(`not within ${timeoutMs} ms`));
      using until = linkSignals(outer, deadline.signal);
      const answer = await agent.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: 'POST',
        headers: { 'content-type': 'application/json', ...authorization },
        body: JSON.stringify(message.body),
        signal: until.signal,
      });
      await answer.body.dump({ limit: 4_096, signal: until.signal });
      const { statusCode: status } = answer;
      if (status >= 500 || status === 429)
        throw new GridError('SITE_UNAVAILABLE', `the receiver answers with status ${status}`);
      if (status >= 300)
        throw new GridError('BAD_REQUEST', `the receiver answers with status ${status}`);
    },
    [Symbol.dispose]: () => void agent.destroy(),
  };
}

type Authorization = { readonly authorization?: string };

/** Who stands in the address is whom its author wants to be there: `undefined` only where nobody does. */
function basic({ username, password }: URL): Authorization | undefined {
  if (username === '') return password === '' ? undefined : {};
  const plain = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { authorization: `Basic ${Buffer.from(plain).toString('base64')}` };
}

function bearer(token: string | undefined): Authorization {
  return token === undefined ? {} : { authorization: `Bearer ${token}` };
}

function refuseLocal(address: string): void {
  if (local.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4'))
    throw new GridError('BAD_REQUEST', `${address} is an address of this host or link`);
}

/** The addresses that are connected to are those that were checked. */
function guardedLookup(
  hostname: string,
  options: object,
  done: (error: Error | null, address: string | LookupAddress[], family?: number) => void,
): void {
  lookupCallback(hostname, { ...options, all: true }, (error, addresses) => {
    try {
      if (error) throw error;
      for (const { address } of addresses) refuseLocal(address);
      const [first] = addresses;
      if ('all' in options && options.all === true) done(null, addresses);
      else done(null, first?.address ?? '', first?.family);
    } catch (refused) {
      done(refused as Error, []); // nothing else is thrown here
    }
  });
}
