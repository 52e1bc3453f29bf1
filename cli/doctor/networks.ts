import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import type { TargetsystemConfig } from '#targetsystem/main.js';
import { whyNoUserNetwork } from '#kernel/libvirt/network-namespace.js';

/** Why kinds of networks that are configured could not be had; what only a start can tell is not among it. */
export async function networkFaults({
  machines: uri,
  networks,
}: TargetsystemConfig['xnjs']['hypervisor']): Promise<string[]> {
  const faults: string[] = [];
  const userRefusal = networks.user && (await whyNoUserNetwork(uri));
  if (userRefusal !== undefined) faults.push(`user: ${userRefusal}`);
  const own = (['nat', 'isolated'] as const).filter((kind) => networks[kind]);
  const filtered = [...own, ...(networks.bridge ? (['bridge'] as const) : [])];
  const wanted = [
    ['dnsmasq', own],
    ['ebtables', filtered],
    ['iptables', networks.nat ? ['nat'] : []],
  ] as const;
  for (const [program, kinds] of wanted)
    if (kinds.length > 0 && !(await isThere(program)))
      faults.push(`${kinds.join(', ')}: ${program} is missing`);
  const refusal = filtered.length > 0 && (await refusalOf(uri));
  if (refusal) faults.push(`${filtered.join(', ')}: ${refusal}`);
  return faults;
}

async function isThere(program: string): Promise<boolean> {
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
  return await promisify(execFile)(program, ['--version'], { env, timeout: 10_000 }).then(
    () => true,
    () => false,
  );
}

/** What libvirt says to whoever asks for its networks and filters; `undefined`: it has them. */
async function refusalOf(uri: string | undefined): Promise<string | undefined> {
  if (uri === undefined) return 'there is no libvirt for machines';
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    await client.call('connect_list_all_networks', { need_results: 0, flags: 0 });
    await client.call('connect_num_of_nwfilters', {});
    return undefined;
  } catch (error) {
    return errorText(error);
  }
}
