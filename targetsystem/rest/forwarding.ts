import { posix } from 'node:path';
import { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import { operations, RequestError } from '#kernel/http/operation.js';
import { json, upgraded } from '#kernel/http/reply.js';
import type { Job, JobEngine } from '#xnjs/index.js';
import { machineErrors } from './answers-errors.js';
import { CarriedConnections, type CarryingConfig } from './carried-connections.js';
import type { RestDeps } from './deps.js';
import { permissionOf } from './permission.js';
import { jobInput, onJob } from './policy.js';

const operation = operations<RestDeps>();
const path = '/jobs/:jobId/forward-port';
const protocol = 'UNICORE-Socket-Forwarding';

/** A name or an address; the machine that the job runs on looks it up. */
const host = z
  .string()
  .regex(
    /^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[?[0-9A-Fa-f:.]{2,45}\]?)$/,
    'must be the name or the address of a host',
  );
const forwardingInput = {
  ...jobInput,
  port: z.coerce.number().int().min(1).max(65_535).optional(),
  host: host.default('localhost'),
  file: z.string().min(1).max(1_024).optional(),
  loginNode: z.string().max(256).optional(),
};
type ForwardingInput = z.output<z.ZodObject<typeof forwardingInput>>;

/** `GET …/forward-port` (unicore-rest 6): bytes both ways between the client and a service near the job. */
const forwardPort = operation({
  method: 'GET',
  path,
  summary: 'Becomes a connection to a port, or a socket in the directory, of a job',
  input: z.object(forwardingInput),
  answers: {
    101: { description: 'From here on the bytes of the connection' },
    200: { body: z.object({ status: z.string().describe('What to ask for') }) },
  },
  errors: machineErrors,
  id: 'forwardPort',
  policy: onJob.modify,
  run: async (deps, input, context) => {
    const { jobs, systems, forwardings } = deps;
    const { upgrade, caller, log, signal } = context;
    if (upgrade?.toLowerCase() !== protocol.toLowerCase())
      return json({
        status: `ask for it with the headers Connection: Upgrade, Upgrade: ${protocol}`,
      });
    const job = await jobs.get(input.jobId);
    const service = serviceOf(job, input);
    const { loginNode } = input;
    const target = systems.find(job.targetId);
    const forward = target?.forward?.bind(target);
    if (!forward)
      throw new GridError('CONFLICT', 'the target system of the job is gone', { jobId: job.id });
    const permission = permissionOf(onJob.modify, `GET ${path}`, { deps, input, context });
    const wish = { subject: job.id, dn: caller.dn, facts: { jobId: job.id, service }, permission };
    const opened = await forwardings.open({ ...wish, signal }, (until) =>
      forward(service, until, loginNode),
    );
    return upgraded(protocol, (client) => void opened.join(client, log));
  },
});

/** The forwarded connections of this server; they end with their job. */
export function openForwardings(
  jobs: Pick<JobEngine, 'onChange'>,
  config: CarryingConfig,
): CarriedConnections {
  const connections = new CarriedConnections('forwarded connection', config);
  connections.follow(
    jobs.onChange(({ id, state }) => {
      if (state === 'DESTROYING' || state === 'DESTROYED')
        connections.endOf(id, 'the job is destroyed');
    }),
  );
  return connections;
}

/** What the TSI is asked for. @throws `CONFLICT`, `BAD_REQUEST` */
function serviceOf(
  { id, run, directory }: Job,
  { port, host: name, file }: ForwardingInput,
): string {
  if (run.bssId === undefined || directory === undefined)
    throw new GridError('CONFLICT', `job ${id} does not run yet`, { jobId: id });
  if (file !== undefined && port !== undefined)
    throw new RequestError('BAD_REQUEST', 'port, file: give one of them');
  if (port !== undefined) return `${name}:${port}`;
  if (file === undefined) throw new RequestError('BAD_REQUEST', 'port: missing');
  // also what begins with a slash is a path in the job's directory
  const found = posix.join(directory, file);
  if (!found.startsWith(directory) || /[\0\r\n]/.test(file))
    throw new RequestError('BAD_REQUEST', "file: must be a path in the job's directory");
  return `file:${found}`;
}

export const forwardingOperations = [forwardPort];
