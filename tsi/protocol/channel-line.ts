/** The two channels of a worker. */
export type Half = 'command' | 'data';
export type ChannelLine = { readonly worker: string; readonly half: Half };

/**
 * What a connection says first that is one channel of a worker and nothing else (ADR 017). On a link's
 * other connections HTTP/2 is spoken, which begins with another line.
 */
export function encodeChannelLine({ worker, half }: ChannelLine): string {
  return `VSITE-CHANNEL ${worker} ${half}\n`;
}

/** Longer is no first line of a channel. */
export const maxFirstLineBytes = 128;

export function decodeChannelLine(line: string): ChannelLine | undefined {
  const [, worker, half] = /^VSITE-CHANNEL ([0-9a-f-]{36}) (command|data)\n$/.exec(line) ?? [];
  if (worker === undefined) return undefined;
  return { worker, half: half === 'data' ? 'data' : 'command' };
}

/** The agent's answer: from here on the connection is the channel. */
export const channelOpen = 'OK\n';
