/** An IPv4 network, or the address of a host and the size of its network: `10.177.0.1/16` */
export type Ipv4Range = { readonly address: number; readonly prefixLength: number };

export function parseRange(text: string): Ipv4Range {
  const [address = '', prefixLength = '32'] = text.split('/');
  return { address: toNumber(address), prefixLength: Number(prefixLength) };
}

export function sizeOf({ prefixLength }: Pick<Ipv4Range, 'prefixLength'>): number {
  return 2 ** (32 - prefixLength);
}

/** The lowest address of the network. */
export function baseOf({ address, prefixLength }: Ipv4Range): number {
  return address - (address % sizeOf({ prefixLength }));
}

export function toNumber(address: string): number {
  return address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
}

export function toAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join('.');
}

/** Whether two networks have an address in common. */
export function overlap(a: string, b: string): boolean {
  const [one, other] = [parseRange(a), parseRange(b)];
  return baseOf(one) < baseOf(other) + sizeOf(other) && baseOf(other) < baseOf(one) + sizeOf(one);
}
