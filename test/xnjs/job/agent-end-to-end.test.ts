import { describe } from 'node:test';
import { endToEndSuite } from './end-to-end-suite.js';
import { startRig } from './rig.js';

describe('jobs on a real agent', { timeout: 120_000 }, () => endToEndSuite(startRig));
