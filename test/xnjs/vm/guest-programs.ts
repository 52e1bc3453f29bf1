/**
 * For Node in a guest: connects to each of `targets` (name: [host, port]), and prints what became of that. A
 * guest may be slow: who has not answered is silent only when as many have as should.
 */
const tryAllSource = `
const net = require('node:net');
const found = {};
const finish = () => {
  for (const name of Object.keys(targets)) found[name] ??= 'silent';
  console.log(JSON.stringify(found));
  process.exit();
};
for (const [name, [host, port]] of Object.entries(targets)) {
  const socket = net.connect({ host, port });
  const end = (what) => {
    socket.destroy();
    found[name] ??= what;
    if (Object.keys(found).length === Object.keys(targets).length) finish();
  };
  socket.on('connect', () => end('open'));
  socket.on('error', (error) => end(error.code));
}
let turns = 0;
setInterval(() => {
  turns += 1;
  if (turns > 60 || (turns > 3 && Object.keys(found).length >= answering)) finish();
}, 1_000);`;

export type Targets = Readonly<Record<string, readonly [host: string, port: number]>>;

/**
 * A job's script that tries these at once; it prints JSON: `open`, `silent`, or the error.
 * @param answering how many should answer
 */
export function tryAllScript(targets: Targets, answering: number): string {
  const given = `const targets = ${JSON.stringify(targets)}, answering = ${answering};`;
  const encoded = Buffer.from(`${given}${tryAllSource}`).toString('base64');
  return `echo ${encoded} | base64 -d > try-all.cjs; node try-all.cjs`;
}
