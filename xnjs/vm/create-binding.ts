import type { AskEnrolment } from '../tsi/agent-link.js';
import { AgentBinding } from './agent-binding.js';
import { ClassicBinding } from './classic-binding.js';
import { isLocal } from './hosts/host.js';
import type { TargetBinding } from './target-binding.js';
import type { TargetSystemsOptions } from './target-systems-options.js';
import type { MachineSpec } from './target-system.js';
import { tlsOf } from './tsi-network.js';

/** By the way that the image says. */
export function createBinding(record: MachineSpec, options: TargetSystemsOptions): TargetBinding {
  const { clock, log, heartbeatMs, silenceMs, hosts, workspace, network, idb, enrolments } =
    options;
  const { tsi } = record.image.metadata;
  const common = {
    ...{ heartbeatMs, clock, log },
    ...(silenceMs !== undefined && { silenceMs }),
    ...(idb && { scriptHeader: () => idb.scriptHeader }),
  };
  if (tsi.transport === 'channel' || !network)
    return new AgentBinding({
      record,
      ...(isLocal(record) && { socket: workspace.agentSocket(record) }),
      hosts,
      ...(enrolments && { admit: (ask: AskEnrolment) => enrolments.admit(record.id, ask) }),
      ...common,
    });
  const tls = tlsOf(tsi, network);
  return new ClassicBinding({
    name: record.id,
    login: tsi.login,
    addresses: async () => await hosts.of(record).addresses(record.driver, record.id),
    ports: Array.from({ length: tsi.count }, (_, i) => tsi.port + i),
    listener: network.listener,
    ...(tls && { tls }),
    ...(tls &&
      enrolments && {
        enrolment: {
          admit: (ask: AskEnrolment) => enrolments.admit(record.id, ask, true),
          peer: () => enrolments.peerOf(record.id),
          isDue: () => enrolments.isDueOf(record.id),
        },
      }),
    ...common,
  });
}
