import { asGridError, errorText } from '#kernel/errors.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { bad, doubtful, good, together, type Finding } from './finding.js';

/** `9.0.0`, as libvirt packs it: a million for each major version, a thousand for each minor. */
export type Version = readonly [major: number, minor: number, release: number];

/** Below `least` it does not work; below `tried` nobody has tried. */
const wanted = {
  // before it, changes of networks are taken the wrong way round
  libvirt: { least: [7, 2, 0], tried: [9, 0, 0], package: 'libvirt-daemon-system' },
  QEMU: { least: undefined, tried: [7, 2, 0], package: 'qemu-system-x86' },
} as const;

export function unpackVersion(packed: bigint): Version {
  const number = Number(packed);
  return [Math.floor(number / 1e6), Math.floor(number / 1e3) % 1e3, number % 1e3];
}

export function compareVersion(name: keyof typeof wanted, version: Version): Finding {
  const { least, tried, package: from } = wanted[name];
  const text = `${name} ${version.join('.')}`;
  if (least && isBelow(version, least))
    return bad(`${text} is too old`, `install ${name} ${least.join('.')} or newer (${from})`);
  if (isBelow(version, tried))
    return doubtful(
      `${text} is older than what VSite is tried with`,
      `install ${name} ${tried.join('.')} or newer (${from})`,
    );
  return good(text);
}

function isBelow(version: Version, other: Version): boolean {
  const at = version.findIndex((part, index) => part !== other[index]);
  return at >= 0 && (version[at] ?? 0) < (other[at] ?? 0);
}

/** Whether it answers, and is new enough; QEMU too, where it runs machines. */
export async function checkLibvirt(uri: string | undefined): Promise<Finding> {
  if (uri === undefined)
    return doubtful('not configured', 'set xnjs.hypervisor in targetsystem.yaml');
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    const { lib_ver } = await client.call('connect_get_lib_version', {});
    const findings = [compareVersion('libvirt', unpackVersion(lib_ver))];
    // of containers it is the kernel's
    if ((await client.call('connect_get_type', {})).type === 'QEMU') {
      const { hv_ver } = await client.call('connect_get_version', {});
      findings.push(compareVersion('QEMU', unpackVersion(hv_ver)));
    }
    const names = findings.map(({ text }) => text).join(', ');
    return together(findings, `${names} at ${uri}`);
  } catch (error) {
    return bad(errorText(error), remedyFor(error));
  }
}

function remedyFor(error: unknown): string {
  const code = asGridError(error)?.code;
  if (code === 'CONFIG_INVALID') return 'correct the address in xnjs.hypervisor';
  if (code === 'HYPERVISOR_FAILED')
    return "install libvirt's driver for it (libvirt-daemon-driver-qemu, -lxc) and what it runs";
  return 'start libvirtd, or set the address in xnjs.hypervisor';
}
