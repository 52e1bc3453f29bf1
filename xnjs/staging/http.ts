import { StagingError } from './errors.js';
import type { OutsideAnswer, OutsideRequest } from './outside.js';
import { receiveOne } from './receive-files.js';
import type { OpenSource, Resume, SourceFile } from './receive.js';
import { localFiles, only, sendAll, type LocalFile } from './send.js';
import {
  authorizationOf,
  baseName,
  type ExportTransfer,
  type ImportTransfer,
  type Protocol,
} from './transfer.js';

/** `http:` and `https:`: GET and PUT. */
export const http: Protocol = {
  async import(transfer) {
    const url = parseUrl(transfer.entry.from, 'From');
    const proof = { authorization: authorization(transfer, transfer.entry.from) };
    const source = httpSource(transfer, url, { authorize: () => Promise.resolve(proof) });
    await receiveOne(transfer, decodeURIComponent(url.pathname), source);
  },
  async export(transfer) {
    const { entry } = transfer;
    if (entry.mode === 'append')
      throw new StagingError('BAD_REQUEST', 'a web server cannot append to a file');
    const url = parseUrl(entry.to, 'To');
    const file = only(await localFiles(transfer), entry.from);
    if (url.pathname.endsWith('/')) url.pathname += encodeURIComponent(baseName(file.path));
    await sendAll(transfer, [file], {
      exists: () => exists(transfer, url),
      put: (local, isNew) => put(transfer, url, local, isNew),
    });
  },
};

/** Credentials of the entry, or those in its URL. */
function authorization(
  { entry }: ImportTransfer | ExportTransfer,
  text: string,
): string | undefined {
  const { username, password } = new URL(text);
  const inUrl =
    username === '' && password === ''
      ? undefined
      : {
          kind: 'basic' as const,
          username: decodeURIComponent(username),
          password: decodeURIComponent(password),
        };
  return authorizationOf({ credentials: entry.credentials ?? inUrl });
}

function parseUrl(text: string, field: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url) throw new StagingError('BAD_REQUEST', `${field} is no URL`);
  url.username = url.password = url.hash = '';
  return url;
}

/** What proves to the other side who asks. */
export type Authorize = () => Promise<Pick<OutsideRequest, 'authorization' | 'isDelegated'>>;

/** A file behind a URL that answers GET, with ranges where the server knows them. */
export function httpSource(
  { outside, signal }: Pick<ImportTransfer, 'outside' | 'signal'>,
  url: URL,
  request: {
    /** Asked for with each request: tokens may be over by the next. */
    readonly authorize?: Authorize;
    readonly headers?: Readonly<Record<string, string>>;
    readonly permissions?: string | undefined;
    /** Where the server gives no entity tags: what the file is known by. */
    readonly version?: string;
  } = {},
): SourceFile {
  const { authorize, headers, permissions, version } = request;
  return {
    permissions,
    async open(from) {
      if (version !== undefined && from?.validator !== version) from = undefined;
      const range: Record<string, string> = from
        ? {
            range: `bytes=${from.offset}-`,
            ...(version === undefined && { 'if-range': from.validator }),
          }
        : {};
      const answer = await outside
        .request(url, {
          ...(await authorize?.()),
          method: 'GET',
          // bytes as they are: a range of a compressed answer is of no use
          headers: { 'accept-encoding': 'identity', accept: '*/*', ...headers, ...range },
          signal,
        })
        .catch((error: unknown) => {
          // the file ends where the part does, or has become shorter: look again from the start
          if (from && error instanceof StagingError && error.details['status'] === 416)
            return undefined;
          throw error;
        });
      if (!answer) return await this.open(undefined);
      return opened(answer, from, version);
    },
  };
}

function opened(
  answer: OutsideAnswer,
  from: Resume | undefined,
  version: string | undefined,
): OpenSource {
  const { status, headers, body } = answer;
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') {
    body.on('error', () => undefined).destroy();
    throw new StagingError(
      'PEER_FAILED',
      `the server sends the file with the encoding ${encoding}`,
    );
  }
  const length = headers['content-length'];
  const sent = length === undefined ? undefined : Number(length);
  const validator = version ?? validatorOf(headers);
  if (status !== 206) return { offset: 0, body, totalBytes: sent, validator };
  const [, start, total] =
    /^bytes[ =](\d+)-\d+\/(\d+|\*)$/.exec(headers['content-range'] ?? '') ?? [];
  const offset = from?.offset ?? 0;
  // UNICORE/X leaves Content-Range out (unicore-rest 3.11.2)
  if (!from || (start !== undefined && Number(start) !== offset)) {
    body.on('error', () => undefined).destroy();
    throw new StagingError(
      'PEER_FAILED',
      'the server sends another part of the file than was asked for',
    );
  }
  const announced = total === undefined || total === '*' ? undefined : Number(total);
  const totalBytes = announced ?? (sent === undefined ? undefined : offset + sent);
  return { offset, body, totalBytes, validator };
}

/** Only what promises the same bytes may be used to go on. */
function validatorOf(headers: OutsideAnswer['headers']): string | undefined {
  const tag = headers['etag'];
  if (tag?.startsWith('"')) return tag;
  const modified = headers['last-modified'];
  const date = headers['date'];
  if (modified === undefined || date === undefined) return undefined;
  // a date is only good for a file that did not change within the same second (RFC 9110, 8.8.2.2)
  return Date.parse(date) - Date.parse(modified) >= 1_000 ? modified : undefined;
}

async function exists(transfer: ExportTransfer, url: URL): Promise<boolean> {
  const { outside, signal, entry } = transfer;
  try {
    const { body } = await outside.request(url, {
      method: 'HEAD',
      authorization: authorization(transfer, entry.to),
      signal,
    });
    body.on('error', () => undefined).destroy();
    return true;
  } catch (error) {
    if (error instanceof StagingError && error.code === 'NOT_FOUND') return false;
    throw error;
  }
}

async function put(
  transfer: ExportTransfer,
  url: URL,
  file: LocalFile,
  isNew: boolean,
): Promise<void> {
  const { outside, signal, entry } = transfer;
  const { body } = await outside.request(url, {
    method: 'PUT',
    headers: {
      'content-type': 'application/octet-stream',
      'content-length': String(file.sizeBytes),
      ...(isNew && { 'if-none-match': '*' }),
    },
    authorization: authorization(transfer, entry.to),
    body: file.read(),
    signal,
  });
  await drain(body);
}

/** Reads an answer to its end, so that its connection can be used again. */
export async function drain(body: AsyncIterable<unknown>): Promise<void> {
  let size = 0;
  for await (const chunk of body) {
    size += (chunk as Buffer).length;
    if (size > 65_536) return; // leaving destroys it
  }
}
