import type { Driver } from '../target-system.js';

/**
 * What libvirt's drivers can do, as far as this server makes use of it. Facts of libvirt and of the hypervisor
 * below: shown to users and operators as such. That a driver stands here does not mean that machines are made
 * with it.
 */
export type DriverAbilities = {
  readonly description: string;
  /** Whether target systems can be machines of it. */
  readonly makesMachines: boolean;
  /** On another host than the server's. */
  readonly onOtherHosts: boolean;
  /** Parked on disk with all that runs there. */
  readonly freeze: boolean;
  /** Start from the saved memory of another one. */
  readonly warmStart: boolean;
  readonly snapshots: boolean;
  readonly console: boolean;
  readonly screen: boolean;
  /** How our agent is reached. */
  readonly agentChannel: 'virtio' | 'socket' | 'none';
  /** Networks with rules of what may pass. */
  readonly networkFilter: boolean;
  /** A process that hangs is told from one that runs. */
  readonly seesHangs: boolean;
  readonly controls: 'all' | 'cgroups' | 'none';
  /** A machine's cores are whole ones of its host. */
  readonly pinning: boolean;
};

/** Drivers of libvirt that sites may have. */
export type KnownDriver = Driver | 'xen' | 'vbox' | 'test';

const qemu: Omit<DriverAbilities, 'description'> = {
  ...{ makesMachines: true, onOtherHosts: true, freeze: true, warmStart: true, snapshots: true },
  ...{ console: true, screen: true, agentChannel: 'virtio', networkFilter: true },
  ...{ seesHangs: true, controls: 'all', pinning: true },
};

const unused: Pick<
  DriverAbilities,
  | 'makesMachines'
  | 'onOtherHosts'
  | 'warmStart'
  | 'agentChannel'
  | 'networkFilter'
  | 'seesHangs'
  | 'controls'
  | 'pinning'
> = {
  ...{ makesMachines: false, onOtherHosts: false, warmStart: false, agentChannel: 'none' },
  ...{ networkFilter: false, seesHangs: false, controls: 'none', pinning: false },
};

export const driverAbilities: Readonly<Record<KnownDriver, DriverAbilities>> = {
  kvm: { description: 'QEMU with hardware virtualisation', ...qemu },
  qemu: { description: 'QEMU with software emulation', ...qemu },
  lxc: {
    description: 'Linux containers',
    ...{ makesMachines: true, onOtherHosts: true, freeze: false, warmStart: false },
    ...{ snapshots: false, console: true, screen: false, agentChannel: 'socket' },
    ...{ networkFilter: false, seesHangs: false, controls: 'cgroups', pinning: false },
  },
  xen: {
    description: 'Xen',
    ...unused,
    ...{ freeze: true, snapshots: false, console: true, screen: true },
  },
  vbox: {
    description: 'VirtualBox',
    ...unused,
    ...{ freeze: true, snapshots: true, console: false, screen: true },
  },
  test: {
    description: 'libvirt without machines, for tests',
    ...unused,
    ...{ freeze: true, snapshots: true, console: false, screen: true },
  },
};
