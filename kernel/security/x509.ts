import type { X509Certificate } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Method } from './authenticate.js';
import { wrongCredentials } from './basic.js';
import { ConsignorError, createConsignorVerifier } from './consignor.js';
import { createConsignorTokenVerifier, type Consigned } from './consignor-token.js';
import { formatDn, subjectDn } from './dn.js';
import { clientCertificate } from './tls.js';

export type X509Deps = {
  /** Certificates of the gateways whose word about a client counts. */
  readonly trustedSigners: readonly X509Certificate[];
  /** Our name at the gateways; what they say to another site does not count here. */
  readonly siteName?: string;
};

/** The gateway's word (unicore-rest 2.6): for this request by its token, or else for the name alone. */
export function consignorMethod({ trustedSigners, siteName }: X509Deps): Method {
  const verify = createConsignorVerifier(trustedSigners);
  const verifyToken = createConsignorTokenVerifier(trustedSigners);
  return async (request) => {
    const { headers } = request;
    const token = headers['x-unicore-consignor-token'];
    if (token !== undefined) {
      const asked = consigned(request);
      if (
        siteName !== undefined &&
        !asked.gateway.toLowerCase().endsWith(`/${siteName.toLowerCase()}`)
      )
        throw new ConsignorError('UNAUTHENTICATED', 'consignor token refused: for another site');
      const statement = String(headers['x-unicore-consignor-key']);
      return { dn: await verifyToken(String(token), statement, asked), method: 'X509' };
    }
    const value = headers['x-unicore-consignor'];
    // Repeated headers arrive joined, and then no signature fits
    return value === undefined
      ? undefined
      : { dn: formatDn(verify(String(value))), method: 'X509' };
  };
}

function consigned(request: IncomingMessage): Consigned {
  const { headers, method = '', url = '' } = request;
  // Routers cut `url` short
  const { originalUrl = url } = request as { originalUrl?: string };
  return {
    method,
    target: originalUrl,
    peer: String(headers['x-unicore-consignor-ip']),
    gateway: String(headers['x-unicore-gateway']),
  };
}

/**
 * A client that has come to us without a gateway shows its certificate in the TLS handshake. A gateway's own
 * certificate says nothing about its clients.
 */
export function directMethod({ trustedSigners }: X509Deps): Method {
  return (request) => {
    const shown = clientCertificate(request.socket);
    if (!shown || request.headers['x-unicore-gateway'] !== undefined) return undefined;
    if (comesFromGateway(request, trustedSigners)) return undefined;
    if (shown.refused !== undefined) throw wrongCredentials({ reason: shown.refused });
    const { fingerprint256: certificate } = shown.certificate;
    return { dn: formatDn(subjectDn(shown.certificate)), method: 'X509', certificate };
  };
}

/** Whether the headers that gateways make have been made by one. */
export function comesFromGateway(
  { socket }: IncomingMessage,
  trustedSigners: readonly X509Certificate[],
): boolean {
  const shown = clientCertificate(socket);
  if (!shown) return false;
  const { fingerprint256 } = shown.certificate;
  return trustedSigners.some((each) => each.fingerprint256 === fingerprint256);
}
