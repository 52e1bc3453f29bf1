import type { ImageMetadata } from '#imagerepo/contract.js';
import type { CallbackPorts, TsiTls } from '../tsi/callback-transport.js';
import type { MachineNetwork } from './network.js';
import { VmError } from './state.js';

/** How TSIs that have a network are reached. */
export type TsiNetwork = MachineNetwork & {
  readonly listener: CallbackPorts;
  readonly credential?: TsiCredential;
};

/** What the server proves itself by to TSIs, and whom it trusts where an image does not say; PEM. */
export type TsiCredential = { readonly key: string; readonly cert: string; readonly ca?: string };

type ImageTsi = ImageMetadata['tsi'];

/** @throws {@link VmError} `BAD_REQUEST` for an image that this site has no way to reach */
export function requireNetwork(
  { tsi, contextualisation }: Pick<ImageMetadata, 'tsi' | 'contextualisation'>,
  network: TsiNetwork | undefined,
): void {
  const refuse = (missing: string): never => {
    throw new VmError(
      'BAD_REQUEST',
      `the image's tsi.transport is tcp, and this site has ${missing}`,
    );
  };
  if (tsi.transport !== 'tcp') return;
  if (!network)
    refuse(
      'no network for machines (hypervisor.network; a quickstart has none: its libvirtd is in a network namespace of its own)',
    );
  if (!tsi.tls && contextualisation?.enrolment === 'required')
    throw new VmError(
      'BAD_REQUEST',
      "the image's contextualisation.enrolment is required, which over tcp takes tsi.tls",
    );
  if (tsi.tls && !network?.credential) refuse('no certificate for TSIs (tsi.tls)');
  if (tsi.tls && tsi.tls.ca === undefined && network?.credential?.ca === undefined)
    refuse('no authority for TSIs (tsi.tls.caFile): the image must name one (tsi.tls.ca)');
}

/** What a TLS connection to the image's TSI needs; `undefined`: plain TCP. */
export function tlsOf({ tls }: ImageTsi, { credential }: TsiNetwork): TsiTls | undefined {
  if (!tls) return undefined;
  const ca = tls.ca ?? credential?.ca;
  if (!credential || ca === undefined) throw new TypeError('checked when the target was requested');
  return { key: credential.key, cert: credential.cert, ca, peerDns: [tls.dn] };
}
