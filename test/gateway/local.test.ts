import { rigDefaults } from './rig.js';

// What a site behind a socket gets, and its clients, holds for one in the gateway's process, too
rigDefaults.isLocal = true;
await import('./proxy.test.js');
await import('./limits.test.js');
await import('./events.test.js');
await import('./requests.test.js');
await import('./security.test.js');
