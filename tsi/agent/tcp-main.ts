import type { Agent } from './agent.js';
import type { MainSettings } from './settings.js';
export async function serveMain(agent: Agent, settings: MainSettings): Promise<void> {
  await Promise.resolve();
  agent.log.info({ settings }, 'soon');
}
