export type Log = Record<'debug' | 'info' | 'warn' | 'error', LogCall>;
type LogCall = (facts: Readonly<Record<string, unknown>>, message: string) => void;

/** JSON lines to stderr in pino's form, without pino: the agent starts where every module counts. */
export function createLog(debug: boolean): Log {
  const at =
    (level: number): LogCall =>
    (facts, msg) => {
      process.stderr.write(`${JSON.stringify({ level, time: Date.now(), ...facts, msg })}\n`);
    };
  return { debug: debug ? at(20) : () => undefined, info: at(30), warn: at(40), error: at(50) };
}
