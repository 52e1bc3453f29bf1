import type { Log } from '#kernel/log.js';
import { openMetrics } from '#kernel/metrics.js';
import { Scope } from '#kernel/scope.js';
import type { LocalServices } from './backend.js';
import type { GatewayConfig } from './config.js';
import { GatewayServer } from './server.js';
import { WorkerPool } from './workers.js';

export { GatewayConfig } from './config.js';

export type Gateway = {
  /** `https://host:port`, no slash at the end. */
  readonly url: string;
  /** Of the plain HTTP server for ACME tokens. */
  readonly acmePort?: number | undefined;
  /** Reads configuration and files again; what is not usable changes nothing. */
  reload(): Promise<void>;
  /** Requests under way may finish; nothing new is taken. Closing twice is fine. */
  close(): Promise<void>;
};

export type GatewayDeps = {
  readonly log: Log;
  /** Where `config` is from: read again when it changes. */
  readonly configFile?: string;
  /** Sites in this process, by their addresses; workers are others. */
  readonly local?: LocalServices;
};

/**
 * Starts the TLS front door of the sites, in this process or with workers. SIGHUP makes it look for changed
 * files at once; SIGUSR2 replaces the workers one after another.
 * @throws {@link ListenError} `ADDRESS_IN_USE`, `ConfigError` for files that cannot be read
 */
export async function startGateway(config: GatewayConfig, deps: GatewayDeps): Promise<Gateway> {
  const log = deps.log.child({ part: 'gateway' });
  const { configFile, local } = deps;
  const fd = inheritedSocket();
  const scope = new Scope();
  const metrics = await openMetrics(config.metrics, scope, log);
  const gateway = await (
    config.workers > 1
      ? WorkerPool.start(config, { log, configFile, fd })
      : GatewayServer.start(config, { log, configFile, fd, local, metrics })
  ).catch(async (error: unknown) => {
    await scope.close();
    throw error;
  });
  const reload = () => void gateway.reload();
  const restart = () => void (gateway instanceof WorkerPool ? gateway.restart() : gateway.reload());
  process.on('SIGHUP', reload).on('SIGUSR2', restart);
  return {
    url: gateway.url,
    acmePort: gateway.acmePort,
    reload: () => gateway.reload(),
    close: async () => {
      process.off('SIGHUP', reload).off('SIGUSR2', restart);
      await gateway.close();
      await scope.close();
    },
  };
}

/** A socket unit of systemd keeps listening while the service restarts (sd_listen_fds(3)). */
function inheritedSocket(): number | undefined {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  return LISTEN_PID === String(process.pid) && Number(LISTEN_FDS) >= 1 ? 3 : undefined;
}
