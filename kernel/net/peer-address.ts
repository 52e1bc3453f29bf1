import { isIPv6 } from 'node:net';

/** One form for one host: `::ffff:10.0.0.1`, as a dual-stack socket shows it, is `10.0.0.1`. */
export function normalAddress(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  return isIPv6(address) ? canonical(address) : address;
}

/** `0:0::1` is `::1`: the URL parser knows the canonical form; zones (`%eth0`) stay. */
function canonical(address: string): string {
  const [host = '', zone] = address.split('%');
  const text = new URL(`http://[${host}]/`).hostname.slice(1, -1);
  return zone === undefined ? text : `${text}%${zone}`;
}

export function sameAddress(one: string | undefined, other: string | undefined): boolean {
  return one !== undefined && other !== undefined && normalAddress(one) === normalAddress(other);
}
