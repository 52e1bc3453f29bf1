import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { hostname, networkInterfaces, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import type { Scope } from '#kernel/scope.js';
import { isRoot, until } from './agent-process.js';

const programs = ['munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scontrol'];
const path = ['/usr/sbin', '/sbin', process.env['PATH']].join(delimiter);

/** Why there can be no Slurm here; `false` if there can. */
export const noSlurm: string | false = (() => {
  if (!isRoot) return 'needs root: Slurm starts jobs as their users';
  const missing = programs.filter(
    (name) => !path.split(delimiter).some((dir) => existsSync(join(dir, name))),
  );
  if (missing.length > 0) return `not installed: ${missing.join(' ')}`;
  const addresses = Object.values(networkInterfaces()).flatMap((of) => of ?? []);
  const alone = addresses.every(({ address }) => address === '127.0.0.1' || address === '::1');
  return alone && 'Slurm resolves no name where 127.0.0.1 is the only address';
})();

/** A real Slurm of one node on this machine, with its own munge, in a folder of its own. */
export type SlurmCluster = {
  readonly conf: string;
  readonly controller: ChildProcess;
  /** One of Slurm's programs, as root. @returns what it prints */
  run(file: string, ...args: string[]): Promise<string>;
};

/** The node has 8 processors for Slurm; sleeping jobs do not mind that there are fewer. */
function slurmConf(dir: string, [controllerPort, nodePort]: readonly number[]): string {
  const host = hostname().split('.')[0] ?? '';
  return `
ClusterName=vsite
SlurmctldHost=${host}(127.0.0.1)
SlurmctldPort=${controllerPort}
SlurmdPort=${nodePort}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=${dir}/munge.sock
CredType=cred/munge
StateSaveLocation=${dir}/state
SlurmdSpoolDir=${dir}/spool
SlurmctldPidFile=${dir}/slurmctld.pid
SlurmdPidFile=${dir}/slurmd.pid
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
MessageTimeout=5
NodeName=n1 NodeHostname=${host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 Features=fast State=UNKNOWN
PartitionName=batch Nodes=n1 Default=YES MaxTime=INFINITE State=UP
PartitionName=small Nodes=n1 Default=NO MaxTime=5 State=UP
`;
}

/** Up when it takes jobs. Closing the scope ends all jobs and daemons. */
export async function startSlurm(scope: Scope): Promise<SlurmCluster> {
  const dir = mkdtempSync(join(tmpdir(), 'vsite-slurm-'));
  chmodSync(dir, 0o755); // munge wants to know that nobody else can change it; jobs must see their node's spool
  scope.defer(() => rm(dir, { recursive: true, force: true }));
  for (const name of ['state', 'spool']) mkdirSync(join(dir, name));
  const key = join(dir, 'munge.key');
  writeFileSync(key, randomBytes(64), { mode: 0o400 });
  const conf = join(dir, 'slurm.conf');
  writeFileSync(conf, slurmConf(dir, await freePorts(2)), { mode: 0o644 });
  const env = { PATH: path, SLURM_CONF: conf };

  const daemon = (file: string, ...args: string[]): ChildProcess => {
    const log = join(dir, `${file}.log`);
    const child = spawn('sh', ['-c', `exec "$@" >"${log}" 2>&1`, 'sh', file, ...args], { env });
    scope.defer(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGCONT');
      child.kill('SIGTERM');
      const kill = setTimeout(() => child.kill('SIGKILL'), 5_000);
      await once(child, 'exit');
      clearTimeout(kill);
    });
    child.once('exit', (code) => {
      if (!scope.closed) console.error(`${file} ended with ${code}:\n${readFileSync(log, 'utf8')}`);
    });
    return child;
  };
  const files = ['pid', 'seed', 'log'].map((name) => `--${name}-file=${dir}/munge.${name}`);
  const socket = join(dir, 'munge.sock');
  daemon('munged', '--foreground', `--key-file=${key}`, `--socket=${socket}`, ...files);
  await until('munge listens', () => existsSync(socket));
  const controller = daemon('slurmctld', '-D', '-c', '-f', conf);
  daemon('slurmd', '-D', '-N', 'n1', '-f', conf);
  const run = async (file: string, ...args: string[]): Promise<string> =>
    (await promisify(execFile)(file, args, { env })).stdout;
  await until('the node is idle', async () =>
    (await run('sinfo', '--noheader', '--format=%T').catch(() => '')).includes('idle'),
  );
  scope.defer(async () => {
    controller.kill('SIGCONT');
    await run('scancel', '--full', '--user=nobody');
    await until('no job runs', async () => (await run('squeue', '--noheader')) === '');
  });
  return { conf, controller, run };
}

/** Ports that are free now; Slurm cannot be told to look for them itself. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
