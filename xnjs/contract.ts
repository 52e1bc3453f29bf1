/** What answers are made of, for those who read them without the engine: it takes half a second to load. */
export { startReasons } from './vm/target-system.js';
