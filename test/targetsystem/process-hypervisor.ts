import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DomainView, Hypervisor } from '#xnjs/vm/hypervisor.js';
import type { Workspace } from '#xnjs/vm/workspace.js';
import { nodeFlags, program } from '../program.js';

const agentMain = program('tsi/agent/main.ts');

/** A fake: its machines are agents that run as processes here. Everything above is real. */
export class ProcessHypervisor implements Hypervisor {
  readonly #workspace: Workspace;
  readonly #properties: readonly string[];
  readonly #agents = new Map<string, ChildProcess>();
  readonly #saved = new Set<string>();
  readonly #tokens = new Map<string, string>();
  /** Halted while their state is kept. */
  readonly #kept = new Set<string>();

  /** @param properties of the agents, beside those that they need */
  constructor(workspace: Workspace, properties: readonly string[] = []) {
    this.#workspace = workspace;
    this.#properties = properties;
  }

  available = () => ['qemu'] as const;
  onDomain = () => () => undefined;
  onAvailable = () => () => undefined;
  openChannel = () => Promise.reject(new Error('only by its socket'));
  screenshot = () => Promise.reject(new Error('a process has no screen'));
  openConsole = () => Promise.reject(new Error('has none'));
  saveMemory = () => Promise.reject(new Error('has no memory to save'));
  restoreMemory = () => Promise.reject(new Error('has none to restore'));
  describe = () => Promise.resolve('processes');
  ensureNetwork = () => Promise.resolve();
  addresses = () => Promise.resolve([]);
  // of a hypervisor's type, so that tests can put others in their place
  usage: Hypervisor['usage'] = () => Promise.resolve([]);
  setControls: Hypervisor['setControls'] = () => Promise.resolve(true);
  mark = () => Promise.resolve();
  removeOlder = () => Promise.resolve();
  list: Hypervisor['list'] = () => {
    const mark = { installation: '', owner: '', epoch: 0, generation: 1 };
    return Promise.resolve([...this.#agents.keys()].map((id) => ({ ...this.#view(id), mark })));
  };
  look: Hypervisor['look'] = () =>
    Promise.resolve([...this.#agents.keys()].map((id) => this.#view(id)));
  find = (_driver: string, id: string) =>
    Promise.resolve(this.#agents.has(id) ? this.#view(id) : undefined);

  start(_driver: string, id: string, xml: string): Promise<{ definedMs: number }> {
    const former = this.#agents.get(id);
    // as a hypervisor does: what a server has begun before it ended is there already
    if (former?.exitCode === null && former.signalCode === null)
      return Promise.resolve({ definedMs: Date.now() });
    const directory = this.#workspace.directoryOf(id);
    const properties = join(directory, 'tsi.properties');
    const socket = this.#workspace.agentSocket({ id });
    // a guest would read its kernel's command line
    const [, token = ''] = /vsite\.enrolment=([\w-]+)/.exec(xml) ?? [];
    this.#tokens.set(id, token);
    writeFileSync(join(directory, 'given-token'), token, { mode: 0o600 });
    const own = [
      `tsi.link = unix:${socket}`,
      `tsi.state_dir = ${directory}/agent`,
      `tsi.enrolment_file = ${directory}/given-token`,
    ];
    writeFileSync(properties, [...own, ...this.#properties, ''].join('\n'));
    this.#spawnAgent(id);
    return Promise.resolve({ definedMs: Date.now() });
  }

  #spawnAgent(id: string): void {
    const properties = join(this.#workspace.directoryOf(id), 'tsi.properties');
    const arguments_ = [...nodeFlags, agentMain, properties];
    this.#agents.set(id, spawn(process.execPath, arguments_, { stdio: 'ignore' }));
  }

  directoryOf(id: string): string {
    return this.#workspace.directoryOf(id);
  }

  /** As it was on the kernel's command line. */
  tokenGivenTo(id: string): string {
    return this.#tokens.get(id) ?? '';
  }

  /** In the same guest another program takes the agent's place: what a thief does who is root there. */
  async replaceAgent(
    id: string,
    how: { state?: 'lost'; token?: string; likeThatOf?: string } = {},
  ): Promise<void> {
    await this.remove('qemu', id);
    const directory = this.directoryOf(id);
    if (how.state === 'lost') rmSync(join(directory, 'agent'), { recursive: true });
    if (how.likeThatOf !== undefined)
      cpSync(join(this.directoryOf(how.likeThatOf), 'agent'), join(directory, 'agent'), {
        recursive: true,
      });
    if (how.token !== undefined) writeFileSync(join(directory, 'given-token'), how.token);
    this.#spawnAgent(id);
  }

  save(_driver: string, id: string): Promise<boolean> {
    if (this.#agents.get(id)?.kill('SIGSTOP')) this.#saved.add(id);
    return Promise.resolve(this.#saved.has(id));
  }

  restore(_driver: string, id: string): Promise<boolean> {
    this.#agents.get(id)?.kill('SIGCONT');
    return Promise.resolve(this.#saved.delete(id));
  }

  async saveMemoryTo(_driver: string, id: string, path: string): Promise<boolean> {
    this.#agents.get(id)?.kill('SIGSTOP');
    await writeFile(path, 'LibvirtQemudSave: of a process nothing can be kept');
    this.#kept.add(id);
    return true;
  }

  startFromMemory = () => Promise.resolve();

  resume(_driver: string, id: string): Promise<void> {
    if (this.#kept.delete(id)) this.#agents.get(id)?.kill('SIGCONT');
    return Promise.resolve();
  }

  end(driver: string, id: string): Promise<void> {
    return this.remove(driver, id);
  }

  async remove(_driver: string, id: string): Promise<void> {
    const agent = this.#agents.get(id);
    this.#agents.delete(id);
    if (agent?.exitCode !== null || agent.signalCode !== null) return;
    agent.kill('SIGKILL');
    await once(agent, 'exit');
  }

  async close(): Promise<void> {
    for (const id of this.#agents.keys()) await this.remove('qemu', id);
  }

  #view(id: string): DomainView {
    const isSaved = this.#saved.has(id);
    const isStopped = isSaved || this.#kept.has(id);
    return { id, state: isStopped ? 'stopped' : 'running', reason: '', isSaved };
  }
}
