import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { GridError } from '#kernel/errors.js';
import { PassingError, reasonOf, StagingError } from './errors.js';
import type { ExportTransfer, ImportTransfer } from './transfer.js';

export type S3Url = { readonly bucket: string; readonly key: string };

/** The key is everything after the bucket, as it stands. */
export function parseS3Url(text: string, field: string): S3Url {
  const [, bucket, key = ''] =
    /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*))?$/i.exec(text) ?? [];
  if (bucket === undefined)
    throw new StagingError('BAD_REQUEST', `${field} must be s3://bucket/key`);
  return { bucket, key };
}

const connectMs = 15_000;
const sdkAttempts = 2;

/**
 * A client for one transfer, made of what the entry says and of nothing else: neither the server's
 * environment nor its files are asked for credentials, regions or addresses.
 */
export async function withS3<T>(
  transfer: ImportTransfer | ExportTransfer,
  work: (client: S3Client) => Promise<T>,
): Promise<T> {
  const { signal } = transfer;
  const [{ S3Client: Client }, options] = await Promise.all([
    import('@aws-sdk/client-s3'), // costs 25 MB of memory: only where someone uses it
    clientOptions(transfer),
  ]);
  const client = new Client(options);
  try {
    return await work(client);
  } catch (error) {
    signal.throwIfAborted();
    throw toStagingError(error);
  } finally {
    client.destroy();
  }
}

async function clientOptions({
  entry,
  outside,
}: ImportTransfer | ExportTransfer): Promise<S3ClientConfig> {
  const { NodeHttpHandler } = await import('@smithy/node-http-handler');
  const { endpoint, region = 'us-east-1', pathStyle } = entry.parameters;
  if (!/^[a-z0-9-]{1,64}$/i.test(region))
    throw new StagingError('BAD_REQUEST', `ExtraParameters.region: "${region}" is none`);
  const address = endpoint ?? `https://s3.${region}.amazonaws.com`;
  if (!URL.canParse(address) || !/^https?:$/.test(new URL(address).protocol))
    throw new StagingError('BAD_REQUEST', 'ExtraParameters.endpoint: must be a URL');
  outside.guard.checkHost(new URL(address).hostname);
  const agents = outside.nodeAgents();
  const { credentials } = entry;
  if (credentials && credentials.kind !== 'basic')
    throw new StagingError('BAD_REQUEST', 'Credentials: S3 needs Username and Password');
  return {
    region,
    endpoint: address,
    forcePathStyle: (pathStyle ?? String(endpoint !== undefined)).toLowerCase() === 'true',
    ...(credentials
      ? {
          credentials: { accessKeyId: credentials.username, secretAccessKey: credentials.password },
        }
      : anonymous),
    maxAttempts: sdkAttempts,
    retryMode: 'standard',
    useFipsEndpoint: false,
    useDualstackEndpoint: false,
    defaultsMode: 'standard',
    requestHandler: new NodeHttpHandler({
      httpAgent: agents.http,
      httpsAgent: agents.https,
      connectionTimeout: connectMs,
      requestTimeout: 0, // for a request as a whole; the agents watch for silence
    }),
  };
}

/** Public buckets: nothing is signed. */
const anonymous: Pick<S3ClientConfig, 'credentials' | 'signer'> = {
  credentials: { accessKeyId: '', secretAccessKey: '' },
  signer: { sign: (request) => Promise.resolve(request) },
};

/** Will be the same the next time. */
const lastingStatus = (status: number): boolean => status < 500 && status !== 408 && status !== 429;

function toStagingError(error: unknown): unknown {
  if (error instanceof GridError) return error;
  const { name, $metadata, cause } = error as {
    name: string;
    cause?: unknown;
    $metadata?: { httpStatusCode?: number };
  }; // the SDK's own shape
  if (cause instanceof GridError) return cause;
  const status = $metadata?.httpStatusCode;
  const reason = `S3 answers ${status ?? 'nothing'}: ${name}, ${reasonOf(error)}`;
  if (status === undefined || !lastingStatus(status))
    return new PassingError(reason, { cause: error });
  if (status === 404) return new StagingError('NOT_FOUND', reason, {}, { cause: error });
  if (status === 401 || status === 403)
    return new StagingError('FORBIDDEN', reason, {}, { cause: error });
  if (status === 409 || status === 412)
    return new StagingError('CONFLICT', reason, {}, { cause: error });
  return new StagingError('PEER_FAILED', reason, {}, { cause: error });
}
