import type { ImageMetadata } from '#imagerepo/contract.js';
import { agentPort } from '../domain-xml.js';

/** One word, whatever is in it, for any shell. */
const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The label of the disk that holds our agent and what it runs by. */
export const agentDiskLabel = 'VSITE';

export type AgentScriptOptions = Pick<ImageMetadata, 'tsi' | 'contextualisation'> & {
  /** Which machine it is. */
  readonly name: string;
  readonly token: string | undefined;
  readonly variables?: Readonly<Record<string, string>> | undefined;
};

/** As our agent writes it, which may come later, or not be there. */
const variablesFile = '/run/vsite-parameters';

/**
 * What cloud-init runs early in each boot, as root (`text/cloud-boothook`): lays the token where the agent finds
 * it, and starts our agent in an image that has none. Plain sh: nothing of the image is known.
 */
export function agentScript({
  name,
  token,
  tsi,
  contextualisation,
  variables = {},
}: AgentScriptOptions): string {
  const lines = ['#!/bin/sh', 'umask 077', 'mkdir -p /etc/vsite'];
  lines.push(
    // once for this machine: a later boot does not bring back what was used and removed
    `if [ "$(cat /etc/vsite/machine 2>/dev/null)" != ${quote(name)} ]; then`,
    ...forgetting.map((line) => `  ${line}`),
    `  ${token === undefined ? '' : `echo ${quote(token)} > /etc/vsite/enrolment && `}echo ${quote(name)} > /etc/vsite/machine`,
    'fi',
  );
  const settings = Object.entries(variables).map(([key, value]) => `${key}=${quote(value)}`);
  if (settings.length > 0)
    lines.push(
      `printf '%s\\n' ${settings.map(quote).join(' ')} > ${variablesFile}`,
      `chmod 644 ${variablesFile}`,
    );
  if (contextualisation?.agent === true) lines.push(...injection(tsi));
  return `${lines.join('\n')}\n`;
}

/**
 * An image that was saved from a machine has that one's machine id, and its store of random numbers: all machines
 * that are made from it would. Host names and ssh's host keys cloud-init makes anew by itself.
 */
const forgetting = [
  'rm -f /var/lib/systemd/random-seed',
  'for file in /etc/machine-id /var/lib/dbus/machine-id; do',
  '  [ -s "$file" ] && [ ! -L "$file" ] || continue',
  '  id=${id:-$(tr -d - < /proc/sys/kernel/random/uuid)}',
  '  echo "$id" > "$file" && chmod 444 "$file"',
  'done',
];

function injection({ login, jobsDirectory }: ImageMetadata['tsi']): string[] {
  const [user, jobs] = [quote(login), quote(jobsDirectory)];
  return [
    `id ${user} >/dev/null 2>&1 || useradd -m -s /bin/bash ${user} || adduser -D -s /bin/sh ${user}`,
    `mkdir -p ${jobs} && chown ${user}: ${jobs} && chmod 700 ${jobs}`,
    `cat > /etc/vsite/tsi.properties <<'END'`,
    `tsi.link=/dev/virtio-ports/${agentPort}`,
    'tsi.switch_uid=1',
    'END',
    'modprobe virtio_console 2>/dev/null || true',
    'mkdir -p /run/vsite/agent',
    `disk=$(blkid -L ${agentDiskLabel} || findfs LABEL=${agentDiskLabel}) || exit 1`,
    'mountpoint -q /run/vsite/agent || mount -o ro "$disk" /run/vsite/agent || exit 1',
    'if [ -d /run/systemd/system ]; then',
    `  cat > /run/systemd/system/vsite-agent.service <<'END'`,
    ...unit,
    'END',
    // a new unit needs no reload, which waits for much while a system boots
    '  systemctl start --no-block vsite-agent && exit 0',
    'fi',
    // this script runs at each boot: another init system needs nothing more
    'setsid /bin/sh /run/vsite/agent/start >/dev/console 2>&1 </dev/null &',
  ];
}

const unit = [
  '[Unit]',
  'Description=VSite TSI agent',
  '# at once: nothing that boots later is needed by it',
  'DefaultDependencies=no',
  'Conflicts=shutdown.target',
  'Before=shutdown.target',
  '# ended in good order, the machine is not needed any more',
  'SuccessAction=poweroff',
  '[Service]',
  'ExecStart=/bin/sh /run/vsite/agent/start',
  'Restart=on-failure',
  'RestartSec=2',
  '# jobs outlive their agent',
  'KillMode=process',
  '# nor does it end with one that takes too much memory',
  'OOMPolicy=continue',
];
