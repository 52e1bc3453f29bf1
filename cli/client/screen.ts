import { createWriteStream } from 'node:fs';
import { finished, pipeline } from 'node:stream/promises';
import { socketStream } from '#kernel/http/client-websocket.js';
import { carryAll } from './forward.js';
import { printJson, tell } from './print.js';
import type { Session } from './profile.js';

export type ScreenOptions = {
  /** A file for a picture of it, instead. */
  readonly picture?: string;
  readonly bind: string;
  readonly port: number;
};

/** The screen of the machine for viewers of VNC that connect here, until the signal; or one picture of it. */
export async function openScreen(
  { client, service }: Session,
  siteId: string,
  { picture, bind, port }: ScreenOptions,
  { asJson, signal }: { readonly asJson: boolean; readonly signal: AbortSignal },
): Promise<void> {
  const address = service.address('/sites/:siteId/screen', { siteId });
  const { body } = await client.download(address, { headers: { accept: 'image/png' } }); // may we, is there one?
  if (picture !== undefined) {
    await pipeline(body, createWriteStream(picture));
    tell(`the screen is in ${picture}`);
    return;
  }
  await finished(body.resume());
  await carryAll(
    { bind, port, signal },
    async () => socketStream(await client.webSocket(address, { signal })),
    (at) => {
      if (asJson) printJson({ host: bind, port: at });
      else tell(`the screen of ${siteId} is at vnc://${bind}:${at}; Ctrl-C ends it`);
    },
  );
}
