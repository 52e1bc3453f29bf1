/** The two channels of a worker no longer fit together; nothing but their end helps. */
export class OutOfStep extends Error {}
