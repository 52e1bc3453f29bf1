import { parseArgs } from './command-line.js';

await parseArgs(process.argv);
