import type { EnrolmentAsk } from '#tsi/protocol/enrolment.js';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import type { AskEnrolment } from '../tsi/agent-link-options.js';
import { AgentBinding } from './agent-binding.js';
import { ClassicBinding } from './classic-binding.js';
import { isLocal } from './hosts/host.js';
import type { TargetBinding } from './target-binding.js';
import type { TargetSystemsOptions } from './target-systems-options.js';
import type { MachineSpec } from './target-system.js';
import { tlsOf } from './tsi-network.js';

/**
 * By the way that the image says.
 * @param identity who the machine is to be from its next connection on; `undefined`: who it is
 */
export function createBinding(
  record: MachineSpec,
  options: TargetSystemsOptions,
  identity: () => MachineIdentity | undefined = () => undefined,
): TargetBinding {
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
      greet: () => {
        const enrolment = enrolments?.questionFor(record.id);
        const becoming = identity();
        if (!enrolment && !becoming) return undefined;
        return { ...(becoming && { identity: becoming }), ...(enrolment && { enrolment }) };
      },
      ...(enrolments && {
        admit: (ask: AskEnrolment, asked?: EnrolmentAsk) =>
          enrolments.admit(record.id, ask, { asked }),
      }),
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
          admit: (ask: AskEnrolment) =>
            enrolments.admit(record.id, ask, { needsCertificate: true }),
          peer: () => enrolments.peerOf(record.id),
          isDue: () => enrolments.isDueOf(record.id),
        },
      }),
    ...common,
  });
}
