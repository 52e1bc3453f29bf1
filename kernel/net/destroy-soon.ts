type Destroyable = { destroy(error?: Error): unknown };

/**
 * Destroys a stream or session at the end of this turn of the event loop.
 *
 * @NOTE node:http2 (20.20 and before) fails an assertion, or never returns, when a stream is destroyed from
 * an `end` or `close` handler of another stream of its session, or from a promise that such a handler
 * settles: they run while nghttp2 still reads. Whatever may be HTTP/2 is therefore destroyed this way.
 */
export function destroySoon(target: Destroyable, error?: Error): void {
  setImmediate(() => target.destroy(error));
}
