import { LinkMessage } from './link-message.js';

/**
 * What a machine is to have for its owner: `POST /setup` on the agent link, before jobs run there, on each new
 * connection (ADR 040). The same once more is not done again.
 */
export type MachineSetup = {
  /** Variables of the environment, for programs that are no jobs. */
  readonly variables: Readonly<Record<string, string>>;
  /** Whose the volumes are. */
  readonly login: string;
  readonly volumes: readonly VolumeWish[];
};
export type VolumeWish = {
  /** By which its disk is found. */
  readonly serial: string;
  /** Where it is to be mounted. */
  readonly path: string;
  /** Nobody has had it yet: there is nothing on it that could be lost. */
  readonly isNew: boolean;
};

/** What has come of it. */
export type SetupReport = {
  readonly volumes: readonly VolumeReport[];
  /** What went wrong beside the volumes; absent: nothing. */
  readonly problem?: string;
};
export type VolumeReport = {
  readonly serial: string;
  /** `/dev/vdb`; absent: there is no disk of that serial. */
  readonly device?: string;
  /** Where it is mounted; absent: it is not, `problem` says why. */
  readonly path?: string;
  readonly problem?: string;
};

export const longestSetup = 524_288;
/** As libvirt and the kernel take it, and good in the name of a variable. */
export const volumeSerial = /^[a-z][a-z0-9_]{0,19}$/;
/**
 * Where volumes may be: nowhere that programs of the system trust what they find, for what is on a volume is its
 * user's. No component is hidden, `.` or `..`.
 */
export const mountPath =
  /^(?=.{1,200}$)\/(data|scratch|(mnt|media|srv|data|scratch)(\/[A-Za-z0-9_][A-Za-z0-9._-]*)+)$/;

export const mostVolumes = 8;
const mostVariables = 128;
const patterns = {
  name: /^[A-Za-z_][A-Za-z0-9_]{0,79}$/,
  value: /^[^\0\r\n]{0,1024}$/u,
  login: /^[a-z_][a-z0-9_-]{0,31}$/,
  device: /^\/dev\/[A-Za-z0-9]{1,32}$/,
  problem: /^[^\0]{1,500}$/u,
} as const;

/** @throws `TSI_PROTOCOL` naming the field */
export function decodeMachineSetup(json: string): MachineSetup {
  const message = new LinkMessage('setup', json);
  const { name: names, value: values } = patterns;
  return {
    variables: message.texts('variables', { names, values, most: mostVariables }),
    login: message.text('login', patterns.login),
    volumes: message.list('volumes', mostVolumes).map((volume) => ({
      serial: volume.text('serial', volumeSerial),
      path: volume.text('path', mountPath),
      isNew: volume.flag('isNew'),
    })),
  };
}

/** What a guest says: for display, and for its own jobs. @throws `TSI_PROTOCOL` naming the field */
export function decodeSetupReport(json: string): SetupReport {
  const message = new LinkMessage('report', json);
  return {
    volumes: message.list('volumes', mostVolumes).map((volume) => ({
      serial: volume.text('serial', volumeSerial),
      ...optional(volume, 'device', patterns.device),
      ...optional(volume, 'path', mountPath),
      ...optional(volume, 'problem', patterns.problem),
    })),
    ...optional(message, 'problem', patterns.problem),
  };
}

function optional<N extends string>(
  message: LinkMessage,
  name: N,
  pattern: RegExp,
): Partial<Record<N, string>> {
  if (!message.has(name)) return {};
  return { [name]: message.text(name, pattern) } as Partial<Record<N, string>>; // the only key
}
