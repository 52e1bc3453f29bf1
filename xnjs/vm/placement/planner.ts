import { imageFormats, type ImageRecord, type NetworkKind } from '#imagerepo/contract.js';
import { formatDate, type Clock } from '#kernel/clock.js';
import { chooseImage, nameOf, roomyEnough, unlike, type ChosenImage } from '../choose-image.js';
import { requireContext } from '../context/own-context.js';
import type { Spot } from '../hosts/choose-host.js';
import type { HostPlacement, Placed } from '../hosts/host-placement.js';
import type { Hosts } from '../hosts/hosts.js';
import { chooseImageParameters, type ImageParameters } from '../image-parameters.js';
import type { ImageSearch, ImageSource } from '../image-source.js';
import type { NewTargetSystem } from '../target-systems-options.js';
import { chooseDriver, chooseParameters } from '../parameters.js';
import { VmError } from '../state.js';
import type { Driver, StartTier, TargetSystem } from '../target-system.js';
import type { TargetStore } from '../target-store.js';
import type { MachineNetworks } from '../machine-networks.js';
import { requireNetwork, type TsiNetwork } from '../tsi-network.js';
import { costOf, type Cost, type Prices } from './cost.js';
import { Flavours, type Bounds, type FlavourConfig, type SiteLimits } from './flavours.js';
import {
  addAmounts,
  amountsOf,
  checkQuota,
  countsFor,
  nothing,
  quotasOf,
  type Amounts,
  type CountsFor,
  type Quota,
  type QuotaConfig,
} from './quota.js';
import { plainUser, type Requester } from './requester.js';
import { chooseVolumes, type ChosenVolumes, type VolumeLimits } from '../volumes/choose-volumes.js';
import type { Volume } from '../volumes/volume.js';
import { expectedWaits, type ExpectedWait, type StartStore } from './starts.js';

export type PlannerOptions = {
  readonly store: Pick<TargetStore, 'used'>;
  readonly images: ImageSearch & Pick<ImageSource, 'isHere'>;
  readonly hosts: Pick<Hosts, 'seats'>;
  readonly places: Pick<HostPlacement, 'choose' | 'offersCores'>;
  readonly clock: Clock;
  readonly limits: SiteLimits & { readonly perUser: number };
  readonly network?: TsiNetwork | undefined;
  /** Absent: machines have no other. */
  readonly networks?: Pick<MachineNetworks, 'require' | 'offered'> | undefined;
  readonly agentDisk?: string | undefined;
  /** Absent: there are none, and the limits alone hold. */
  readonly flavours?: FlavourConfig;
  /** Absent: there is none but the number of target systems of each user. */
  readonly quota?: QuotaConfig;
  readonly prices?: Prices | undefined;
  /** Absent: there are none. */
  readonly volumeOffer?: VolumeOffer | undefined;
  /** How long starts took; absent: nobody notes it. */
  readonly starts?: Pick<StartStore, 'latest'>;
};

export type VolumeOffer = {
  readonly limits: VolumeLimits;
  readonly findOf: (ownerDn: string, reference: string) => Volume | undefined;
};

/** What a wish comes to, and how that was decided. */
export type Plan = {
  readonly image: ImageRecord;
  /** Why this image. */
  readonly why: string;
  readonly driver: TargetSystem['driver'];
  /** That it would be on now, and why there. */
  readonly host: string;
  readonly placement: string;
  /** That it has for itself; they are chosen with its host. */
  readonly cores?: readonly number[];
  readonly flavour?: string;
  readonly parameters: TargetSystem['parameters'];
  /** Absent: the image has none. */
  readonly imageParameters?: ImageParameters;
  /** Absent: none. */
  readonly volumes?: NonNullable<TargetSystem['volumes']>;
  /** Ids of those of them that are to be made, and outlive it. */
  readonly newVolumes: readonly string[];
  readonly limits?: NonNullable<TargetSystem['limits']>;
  readonly terminationMs?: number;
  readonly countsFor: CountsFor;
  /** That it counts on. */
  readonly quotas: readonly Quota[];
};

export type QuotaUse = Quota & { readonly used: Amounts };

/** A plan with what a user wants to know before it is carried out. */
export type Estimate = Plan & {
  /** By which it would be started now. */
  readonly tier: StartTier;
  readonly cost: Cost;
  /** With it. */
  readonly quotaAfter: readonly QuotaUse[];
  readonly waits: readonly ExpectedWait[];
};

/** Decides what becomes of a wish for a target system; makes nothing. */
export class Planner {
  readonly #options: PlannerOptions;
  readonly #quota: QuotaConfig;
  readonly flavours: Flavours;

  constructor(options: PlannerOptions) {
    const { limits, quota, flavours = { flavours: {} } } = options;
    this.#options = options;
    const none = { site: {}, user: {}, users: new Map(), vos: {}, groups: {} };
    const { user, ...others } = quota ?? none;
    this.#quota = { ...others, user: { targetSystems: limits.perUser, ...user } };
    this.flavours = new Flavours(flavours, limits);
  }

  /** Of all kinds. */
  get offeredNetworks(): readonly NetworkKind[] {
    return this.#options.networks?.offered ?? ['none'];
  }

  get prices(): Prices | undefined {
    return this.#options.prices;
  }

  /**
   * @throws `IMAGE_UNKNOWN`; `BAD_REQUEST` naming the parameter and its range; `FORBIDDEN` the flavour;
   * `HYPERVISOR_UNAVAILABLE`; `LIMIT_REACHED` no host has room
   */
  async plan(wish: NewTargetSystem): Promise<Plan> {
    return (await this.#plan(wish)).plan;
  }

  async #plan(wish: NewTargetSystem): Promise<{ plan: Plan; tier: StartTier }> {
    const { requester = plainUser, ownerDn } = wish;
    const { network, agentDisk } = this.#options;
    const bounds = this.flavours.boundsFor(requester, wish.flavour);
    const terminationMs = this.#termination(wish, bounds);
    const { image, why } = await this.#choose(wish, bounds);
    requireNetwork(image.metadata, network);
    requireContext(image.metadata, wish.context, agentDisk !== undefined);
    const imageParameters = chooseImageParameters(image.metadata, wish.imageParameters);
    const { parameters: asked, atLeast } = wish;
    const size = atLeast === true ? roomyEnough(asked, image.metadata) : asked;
    const { volumes, newVolumes } = this.#volumes(wish, image);
    const own = volumes.length > 0 && { volumes };
    const { tier, ...place } = await this.#place({ image, ...own }, wish, (driver) => {
      const parameters = chooseParameters(size, { ...image, ...own }, driver, bounds);
      if (parameters.pinned) this.#requireCores(asked.pinned?.field);
      return parameters;
    });
    const counted = countsFor(this.#quota, requester);
    const plan = {
      ...{ image, why },
      ...place,
      ...(imageParameters && { imageParameters }),
      ...{ ...own, newVolumes },
      ...(bounds.flavour !== undefined && {
        flavour: bounds.flavour,
        limits: { ...bounds.controls, maxLifetimeSeconds: bounds.lifetimeSeconds.max },
      }),
      ...(terminationMs !== undefined && { terminationMs }),
      countsFor: counted,
      quotas: quotasOf(this.#quota, ownerDn, counted),
    };
    return { plan, tier };
  }

  /** What it has depends on the driver, which driver on the host, and that on what it has. */
  async #place(
    { image, ...rest }: Pick<Plan, 'image' | 'volumes'>,
    { hostLabels: labels, parameters: asked }: NewTargetSystem,
    parametersWith: (driver: Driver) => TargetSystem['parameters'],
  ): Promise<Pick<Estimate, 'driver' | 'host' | 'placement' | 'parameters' | 'tier'>> {
    const first = chooseDriver(image.metadata, this.#drivers());
    const parameters = parametersWith(first);
    // before a host is looked for: what the site cannot do is no lack of room
    const machine = { driver: first, metadata: image.metadata };
    await this.#requireKind(parameters.network, asked.network?.field, machine);
    const placed: Placed = { image, ...rest, parameters, labels };
    const { driver, host, why: placement, tier }: Spot = this.#options.places.choose(placed);
    const own = driver === first ? parameters : parametersWith(driver);
    return { driver, host, placement, tier, parameters: own };
  }

  #volumes({ ownerDn, volumes }: NewTargetSystem, { metadata }: ImageRecord): ChosenVolumes {
    const { limits = { volumes: 0, volumeMiB: 0 }, findOf } = this.#options.volumeOffer ?? {};
    return chooseVolumes(volumes, metadata, limits, (reference) => findOf?.(ownerDn, reference));
  }

  /** All that answer somewhere at present. */
  #drivers(): Driver[] {
    return [...new Set(this.#options.hosts.seats().map(({ driver }) => driver))];
  }

  /** As {@link plan}, with what it takes. @throws as it does, and `QUOTA_EXCEEDED` */
  async estimate(wish: NewTargetSystem): Promise<Estimate> {
    const { plan, tier } = await this.#plan(wish);
    const { clock, prices, starts } = this.#options;
    const kept = (plan.volumes ?? []).filter(({ volumeId = '' }) =>
      plan.newVolumes.includes(volumeId),
    );
    const keptMiB = kept.reduce((sum, { sizeMiB }) => sum + sizeMiB, 0);
    const asked = addAmounts(amountsOf(plan), { ...nothing, diskMiB: keptMiB });
    const before = await this.#withUse(plan.quotas);
    for (const { used, ...quota } of before) checkQuota(quota, used, asked);
    const { terminationMs } = plan;
    const hours =
      terminationMs === undefined ? undefined : (terminationMs - clock.now()) / 3_600_000;
    return {
      ...plan,
      tier: tier === 'cold' && !(await this.#isHere(plan.image)) ? 'fetch' : tier,
      cost: costOf(asked, hours, prices),
      quotaAfter: before.map((use) => ({ ...use, used: addAmounts(use.used, asked) })),
      waits: expectedWaits((await starts?.latest(plan.image.id)) ?? []),
    };
  }

  /** On this server. */
  async #isHere(image: ImageRecord): Promise<boolean> {
    const { images } = this.#options;
    for (const part of imageFormats[image.metadata.format].parts)
      if (!(await images.isHere(image, part))) return false;
    return true;
  }

  /** The quotas of a user, and what is used of each. */
  async quotaOf(ownerDn: string, requester: Requester): Promise<QuotaUse[]> {
    return await this.#withUse(quotasOf(this.#quota, ownerDn, countsFor(this.#quota, requester)));
  }

  /** On whose quota, beside his own and the site's, counts what a user has made. */
  countsFor(requester: Requester): CountsFor {
    return countsFor(this.#quota, requester);
  }

  /** What one that is there counts on. */
  quotasFor({
    ownerDn,
    countsFor: counted = {},
  }: Pick<TargetSystem, 'ownerDn' | 'countsFor'>): Quota[] {
    return quotasOf(this.#quota, ownerDn, counted);
  }

  /** @throws `BAD_REQUEST` the site has none */
  #requireCores(field = 'parameters.pinned'): void {
    if (this.#options.places.offersCores) return;
    const reason = 'this site has no cores that a machine could have for itself';
    throw new VmError('BAD_REQUEST', `${field}: ${reason}`);
  }

  /** @throws `BAD_REQUEST` the site does not offer it, or the image cannot have it */
  async #requireKind(
    kind: NetworkKind = 'none',
    field = "the image's requirements.network",
    machine: Pick<Plan, 'driver'> & Pick<ImageRecord, 'metadata'>,
  ): Promise<void> {
    const { networks } = this.#options;
    if (kind === 'none') return;
    if (!networks) throw new VmError('BAD_REQUEST', `${field}: this site offers none`);
    await networks.require(kind, field, machine);
  }

  async #withUse(quotas: readonly Quota[]): Promise<QuotaUse[]> {
    const { store } = this.#options;
    return await Promise.all(
      quotas.map(async (quota) => ({ ...quota, used: await store.used(quota.scope) })),
    );
  }

  async #choose(wish: NewTargetSystem, bounds: Bounds): Promise<ChosenImage> {
    const { images, limits } = this.#options;
    const { ownerDn: callerDn, image: wanted, parameters: size } = wish;
    const { reference, requirements } =
      typeof wanted === 'string' ? { reference: wanted, requirements: {} } : wanted;
    if (reference !== undefined) {
      const image = await images.find(reference, callerDn);
      const reason = unlike(image.metadata, requirements);
      if (reason === undefined) return { image, why: `${nameOf(image)} was asked for` };
      throw new VmError('IMAGE_UNKNOWN', `Image: ${nameOf(image)} does not fit: ${reason}`);
    }
    return chooseImage(await images.search(requirements, callerDn), {
      requirements,
      ...{ size, callerDn, drivers: this.#drivers() },
      atLeast: wish.atLeast === true,
      limits: {
        cpus: bounds.cpus.max ?? limits.cpus,
        memoryMiB: bounds.memoryMiB.max ?? limits.memoryMiB,
      },
    });
  }

  /** As it was asked for, else as flavour or site say; within what they allow. */
  #termination(
    { terminationMs, parameters: { runtimeSeconds: runtime }, jobId }: NewTargetSystem,
    { lifetimeSeconds: { min = 0, default: usual, max = Infinity } }: Bounds,
  ): number | undefined {
    if (jobId !== undefined) return undefined; // it ends with its job
    const nowMs = this.#options.clock.now();
    if (runtime && terminationMs !== undefined)
      throw new VmError('BAD_REQUEST', `${runtime.field}: terminationTime says when it ends`);
    const seconds = runtime?.value ?? usual ?? (max === Infinity ? undefined : max);
    const ms = terminationMs ?? (seconds === undefined ? undefined : nowMs + seconds * 1_000);
    const [earliestMs, latestMs] = [nowMs + min * 1_000, nowMs + max * 1_000];
    const refuse = (reason: string): never => {
      throw new VmError('BAD_REQUEST', `terminationTime: must not be ${reason} life time here`);
    };
    if (ms !== undefined && ms > latestMs)
      refuse(`later than ${formatDate(latestMs)}, the longest`);
    if (ms !== undefined && min > 0 && ms < earliestMs)
      refuse(`earlier than ${formatDate(earliestMs)}, the shortest`);
    return ms;
  }
}
