import {
  chmod,
  constants,
  copyFile,
  lchown,
  link,
  lstat,
  mkdir,
  opendir,
  readdir,
  rm,
  stat,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { PartName } from '#imagerepo/contract.js';
import { errorText, GridError } from '#kernel/errors.js';
import { boundConsole, consoleEnd, consolePath, consoleText } from './console-files.js';
import { containerIds, containerRunDirectory, type DomainPaths } from './domain-xml.js';
import { VmError } from './state.js';
import { makeSeedDisk } from './context/seed-disk.js';
import { MachineTokens } from './context/machine-tokens.js';
import type { MachineContext } from './context/machine-context.js';
import type { MachineSpec, TargetSystem } from './target-system.js';
import { volumesOf } from './volumes/volume.js';
import { VolumeFiles } from './volumes/volume-files.js';
import { runTool, whole } from './whole-files.js';

/** What a container may change: copied for each target system, the rest of its root is shared. */
const writable = ['etc', 'home', 'root', 'var'];

/** sockaddr_un holds 108 bytes with the final NUL. */
const longestSocketPath = 107;

/** The files of target systems on this host: one directory each, and the unpacked container roots. */
export class Workspace {
  /** What machines prove themselves by at first. */
  readonly tokens = new MachineTokens((id) => this.directoryOf(id));
  /** Disks of volumes. */
  readonly volumes: VolumeFiles;
  readonly #systems: string;
  readonly #roots: string;
  readonly #unpacking = new Map<string, Promise<string>>();

  /** @param directory absolute; everything below it is ours */
  constructor(directory: string) {
    this.#systems = join(directory, 'vms');
    this.#roots = join(directory, 'roots');
    this.volumes = new VolumeFiles(join(directory, 'volumes'));
    const socket = join(this.#systems, '00000000-0000-0000-0000-000000000000', 'run', 'agent.sock');
    if (Buffer.byteLength(socket) > longestSocketPath)
      throw new VmError(
        'BAD_REQUEST',
        `stateDirectory: ${directory} is too long for unix sockets below it`,
      );
  }

  directoryOf(id: string): string {
    return join(this.#systems, id);
  }

  /** Host side of the agent's channel. */
  agentSocket(system: Pick<TargetSystem, 'id'>): string {
    return join(this.directoryOf(system.id), 'run', 'agent.sock');
  }

  /** Its memory, of a machine that is parked where another host can get at it. */
  parkedMemory(system: Pick<TargetSystem, 'id'>): string {
    return join(this.directoryOf(system.id), 'parked.save');
  }

  /** Host side of its screen, if it has one. */
  screenSocket(system: Pick<TargetSystem, 'id'>): string {
    return join(this.directoryOf(system.id), 'run', 'vnc.sock');
  }

  /**
   * Makes what the domain needs. May be repeated: what is complete stays as it is.
   * @param parts local, read-only files of the image
   * @param context what the machine is told of itself; absent: nothing
   * @throws {@link VmError} `STORAGE_FULL`, `IMAGE_INVALID`
   */
  async prepare(
    system: MachineSpec,
    parts: Partial<Record<PartName, string>>,
    context?: MachineContext,
  ): Promise<DomainPaths> {
    const directory = this.directoryOf(system.id);
    // A container's root is a stranger on the host: it must get through to its own files, and sees no others.
    await mkdir(directory, { recursive: true, mode: 0o711 });
    await mkdir(join(directory, 'run'), { recursive: true, mode: 0o700 });
    const base = {
      console: consolePath(directory),
      agentSocket: this.agentSocket(system),
      ...(system.image.metadata.display && { screenSocket: this.screenSocket(system) }),
    };
    try {
      const seed = await this.seed(system, context);
      const volumes = volumesOf(system);
      const paths = {
        ...base,
        ...(volumes.length > 0 && {
          volumes: await this.volumes.prepare(volumes, directory, system.id),
        }),
        ...(seed !== undefined && { seed }),
      };
      switch (system.image.metadata.format) {
        case 'kernel': {
          const kernel = await adopt(pick(parts, 'kernel'), join(directory, 'kernel'));
          const initrd = await adopt(pick(parts, 'initrd'), join(directory, 'initrd'));
          return { ...paths, kernel, initrd };
        }
        case 'qcow2': {
          const image = await adopt(pick(parts, 'disk'), join(directory, 'base.qcow2'));
          // else what is counted as its disk says nothing of what the machine sees
          const isKnown = system.image.parts.disk?.virtualBytes !== undefined;
          const sizeMiB = isKnown ? system.parameters.diskMiB : undefined;
          return { ...paths, disk: await this.#overlay(directory, image, sizeMiB) };
        }
        case 'rootfs':
          return {
            ...paths,
            ...(await this.#container(directory, pick(parts, 'rootfs'), system, context)),
          };
      }
    } catch (cause) {
      throw toVmError(cause, system.id);
    }
  }

  /** The disk that tells a machine who it is, of images that read one. May be repeated. */
  async seed(system: MachineSpec, context?: MachineContext): Promise<string | undefined> {
    const { nocloud = false } = system.image.metadata.contextualisation ?? {};
    if (!context || !nocloud) return undefined;
    const directory = this.directoryOf(system.id);
    await mkdir(directory, { recursive: true, mode: 0o711 });
    return await makeSeedDisk(directory, system, context);
  }

  /** Removes everything of a target system. One that has nothing is fine. */
  async remove(id: string): Promise<void> {
    await rm(this.directoryOf(id), { recursive: true, force: true });
  }

  /** Ids of the target systems that have a directory here. */
  async list(): Promise<string[]> {
    return await readdir(this.#systems).catch(() => []);
  }

  /** The end of what the guest wrote to its console, at most `bytes`, control characters taken out. */
  async consoleTail(id: string, bytes = 2_048): Promise<string> {
    return consoleText(await consoleEnd(this.directoryOf(id), bytes));
  }

  /** Keeps guests from filling this host's disk by their consoles. @returns whose was too long */
  async boundConsoles(): Promise<string[]> {
    const cut: string[] = [];
    // one after another: nobody waits for it, and there may be thousands; what cannot be read is tried again
    for (const id of await this.list())
      if (await boundConsole(this.directoryOf(id)).catch(() => false)) cut.push(id);
    return cut;
  }

  /** @param sizeMiB of the disk that the machine sees; absent: as its base says */
  async #overlay(directory: string, base: string, sizeMiB?: number): Promise<string> {
    const overlay = join(directory, 'overlay.qcow2');
    return await whole(overlay, async (draft) => {
      const backing = ['-b', base, '-F', 'qcow2'];
      const size = sizeMiB === undefined ? [] : [`${sizeMiB}M`];
      await runTool('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, draft, ...size]);
    });
  }

  async #container(
    directory: string,
    archive: string,
    system: MachineSpec,
    context: MachineContext | undefined,
  ): Promise<Pick<DomainPaths, 'root' | 'mounts'>> {
    const root = await this.#root(archive, system.image.parts.rootfs?.sha256 ?? system.image.id);
    await requireOpenPath(root);
    const runDirectory = join(directory, 'run');
    await lchown(runDirectory, containerIds.first, containerIds.first);
    if (context?.token !== undefined)
      await this.tokens.hand(system.id, context.token, containerIds.first);
    const own = join(directory, 'fs');
    await whole(own, async (draft) => {
      await mkdir(draft, { mode: 0o711 });
      const sources = writable.map((name) => join(root, name));
      await runTool('cp', ['-a', '--reflink=auto', '-t', draft, ...sources]);
    });
    const mounts = Object.fromEntries(writable.map((name) => [`/${name}`, join(own, name)]));
    return { root, mounts: { ...mounts, [containerRunDirectory]: runDirectory } };
  }

  /** Unpacks a container's root once for all target systems that use it. */
  #root(archive: string, key: string): Promise<string> {
    const running = this.#unpacking.get(key);
    if (running) return running;
    const unpacking = this.#unpack(archive, join(this.#roots, key)).finally(() =>
      this.#unpacking.delete(key),
    );
    this.#unpacking.set(key, unpacking);
    return unpacking;
  }

  async #unpack(archive: string, root: string): Promise<string> {
    await mkdir(this.#roots, { recursive: true, mode: 0o711 });
    return await whole(root, async (draft) => {
      await mkdir(draft, { mode: 0o700 });
      await runTool('tar', [
        '-x',
        '--numeric-owner',
        '--same-permissions',
        '-f',
        archive,
        '-C',
        draft,
      ]);
      for (const name of ['proc', 'sys', 'dev', 'tmp', 'run', ...writable])
        await makeMountPoint(draft, name);
      await giveToContainer(draft);
      await chmod(draft, 0o755);
    });
  }
}

function pick(parts: Partial<Record<PartName, string>>, name: PartName): string {
  const path = parts[name];
  if (path === undefined) throw new VmError('IMAGE_INVALID', `the image has no part ${name}`);
  return path;
}

/** A name of our own for a part, so that it outlives its image; a copy where the store is elsewhere. */
async function adopt(part: string, target: string): Promise<string> {
  return await whole(target, (draft) =>
    link(part, draft).catch(() => copyFile(part, draft, constants.COPYFILE_FICLONE)),
  );
}

/**
 * Where something is mounted into the container, there is a directory and no link: libvirt would follow it
 * on the host, to files that are none of the guest's business.
 */
async function makeMountPoint(root: string, name: string): Promise<void> {
  const path = join(root, name);
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) await mkdir(path);
  else if (!found.isDirectory())
    throw new VmError('IMAGE_INVALID', `/${name} of the root file system is no directory`);
}

/**
 * Shifts the owners of an unpacked tree to the ids that they have on the host. Device nodes are taken out:
 * they would be the host's devices, and a container gets those that it may have from libvirt.
 */
async function giveToContainer(root: string): Promise<void> {
  const shift = async (path: string): Promise<void> => {
    const found = await lstat(path);
    if (found.isBlockDevice() || found.isCharacterDevice()) {
      await rm(path);
      return;
    }
    const { uid, gid, mode } = found;
    if (uid >= containerIds.count || gid >= containerIds.count)
      throw new VmError(
        'IMAGE_INVALID',
        `an owner of the root file system is above ${containerIds.count - 1}`,
      );
    await lchown(path, containerIds.first + uid, containerIds.first + gid);
    if ((mode & 0o6000) !== 0) await chmod(path, mode & 0o7777); // chown clears set-user-id
  };
  await shift(root);
  for await (const entry of await opendir(root, { recursive: true }))
    await shift(join(entry.parentPath, entry.name));
}

/** @throws {@link VmError} `BAD_REQUEST` when a directory on the way shuts out the container's user */
async function requireOpenPath(path: string): Promise<void> {
  for (let at = path; at !== dirname(at); at = dirname(at))
    if (((await stat(at)).mode & 0o001) === 0)
      throw new VmError(
        'BAD_REQUEST',
        `stateDirectory: containers need permission x for others on ${at}`,
      );
}

function toVmError(cause: unknown, vmId: string): Error {
  if (cause instanceof GridError) return cause;
  const text = errorText(cause);
  if (/ENOSPC|No space left/.test(text))
    return new VmError(
      'STORAGE_FULL',
      'no space left for the files of the target system',
      { vmId },
      { cause },
    );
  return new VmError(
    'IMAGE_INVALID',
    `the image cannot be prepared: ${text.slice(0, 500)}`,
    { vmId },
    { cause },
  );
}
