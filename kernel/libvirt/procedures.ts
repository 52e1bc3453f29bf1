import {
  array,
  bool,
  chars,
  double,
  hyper,
  int,
  optional,
  string,
  struct,
  uhyper,
  uint,
  union,
  word,
  type Codec,
  type Fields,
  type Infer,
  type Struct,
} from './xdr.js';
import { uuid } from './uuid.js';

/**
 * The calls we use of libvirt's remote protocol, our own table of numbers and fields: kept by hand from
 * observation and libvirt's published behaviour (docs/protocols/libvirt-rpc.md). Names are libvirt's.
 */

/** Handles are plain values: nothing to free. `id` is -1 while a domain does not run. */
export const domain = struct({ name: string(), uuid, id: int });
export type Domain = Infer<typeof domain>;
const snapshot = struct({ name: string(), dom: domain });
export type Snapshot = Infer<typeof snapshot>;
const pool = struct({ name: string(), uuid });
export type StoragePool = Infer<typeof pool>;
const volume = struct({ pool: string(), name: string(), key: string() });
export type StorageVolume = Infer<typeof volume>;
export const network = struct({ name: string(), uuid });
export type Network = Infer<typeof network>;
/** Of the host itself. */
const hostInterface = struct({ name: string(), mac: string() });

const text = string();
const name = word();
const maybeText = optional(text);
/** Of lists that the daemon makes: domains, snapshots, records. */
const maxListed = 16_384;

const figure = union({ 1: int, 2: uint, 3: hyper, 4: uhyper, 5: double, 6: bool, 7: text });
export const typedParams = array(struct({ field: name, value: figure }), maxListed);
export type TypedParams = Infer<typeof typedParams>;

const nwfilter = struct({ name: string(), uuid });

const address = struct({ type: int, addr: text, prefix: uint });
const networkInterface = struct({ name: text, hwaddr: maybeText, addrs: array(address, 2048) });
const lease = struct({
  iface: text,
  expirytime: hyper,
  type: int,
  mac: maybeText,
  iaid: maybeText,
  ipaddr: text,
  prefix: uint,
  hostname: maybeText,
  clientid: maybeText,
});

const row = <const A extends Fields, const R extends Fields>(
  number: number,
  args: A,
  result: R,
) => ({
  number,
  args: struct(args),
  result: struct(result),
});

const dom = domain;
const flags = uint;

export const procedures = {
  auth_list: row(66, {}, { types: array(int, 20) }),
  auth_polkit: row(70, {}, { complete: int }),
  connect_open: row(1, { name: maybeText, flags }, {}),
  connect_close: row(2, {}, {}),
  connect_supports_feature: row(60, { feature: int }, { supported: int }),
  connect_get_type: row(3, {}, { type: text }),
  connect_get_version: row(4, {}, { hv_ver: uhyper }),
  connect_get_lib_version: row(157, {}, { lib_ver: uhyper }),
  connect_get_hostname: row(59, {}, { hostname: text }),
  connect_get_capabilities: row(7, {}, { capabilities: text }),
  connect_get_domain_capabilities: row(
    342,
    { emulatorbin: maybeText, arch: maybeText, machine: maybeText, virttype: maybeText, flags },
    { capabilities: text },
  ),
  node_get_info: row(
    6,
    {},
    {
      model: chars(32),
      memory: uhyper,
      cpus: int,
      mhz: int,
      nodes: int,
      sockets: int,
      cores: int,
      threads: int,
    },
  ),
  connect_list_all_domains: row(
    273,
    { need_results: int, flags },
    { domains: array(domain, maxListed), ret: uint },
  ),
  connect_get_all_domain_stats: row(
    344,
    { doms: array(domain, maxListed), stats: uint, flags },
    { retStats: array(struct({ dom, params: typedParams }), maxListed) },
  ),
  connect_domain_event_callback_register_any: row(
    316,
    { eventID: int, dom: optional(domain) },
    { callbackID: int },
  ),
  connect_domain_event_callback_deregister_any: row(317, { callbackID: int }, {}),

  domain_lookup_by_name: row(23, { name: text }, { dom }),
  domain_lookup_by_uuid: row(24, { uuid }, { dom }),
  domain_define_xml_flags: row(350, { xml: text, flags }, { dom }),
  domain_create_xml: row(10, { xml_desc: text, flags }, { dom }),
  domain_create_with_flags: row(196, { dom, flags }, { dom }),
  domain_get_state: row(212, { dom, flags }, { state: int, reason: int }),
  domain_get_info: row(
    16,
    { dom },
    { state: uint, maxMem: uhyper, memory: uhyper, nrVirtCpu: uint, cpuTime: uhyper },
  ),
  domain_get_xml_desc: row(14, { dom, flags }, { xml: text }),
  domain_suspend: row(34, { dom }, {}),
  domain_resume: row(28, { dom }, {}),
  domain_shutdown_flags: row(258, { dom, flags }, {}),
  domain_reboot: row(27, { dom, flags }, {}),
  domain_reset: row(245, { dom, flags }, {}),
  domain_destroy_flags: row(234, { dom, flags }, {}),
  domain_undefine_flags: row(231, { dom, flags }, {}),
  domain_set_metadata: row(
    264,
    { dom, type: int, metadata: maybeText, key: maybeText, uri: maybeText, flags },
    {},
  ),
  domain_get_metadata: row(265, { dom, type: int, uri: maybeText, flags }, { metadata: text }),
  domain_interface_addresses: row(
    353,
    { dom, source: uint, flags },
    { ifaces: array(networkInterface, 2048) },
  ),

  domain_set_memory_flags: row(204, { dom, memory: uhyper, flags }, {}),
  domain_set_memory_parameters: row(197, { dom, params: typedParams, flags }, {}),
  domain_set_scheduler_parameters_flags: row(219, { dom, params: typedParams, flags }, {}),
  domain_set_block_io_tune: row(252, { dom, disk: text, params: typedParams, flags }, {}),
  domain_set_interface_parameters: row(256, { dom, device: text, params: typedParams, flags }, {}),

  domain_save_flags: row(232, { dom, to: text, dxml: maybeText, flags }, {}),
  domain_restore_flags: row(233, { from: text, dxml: maybeText, flags }, {}),
  domain_save_image_get_xml_desc: row(235, { file: text, flags }, { xml: text }),
  domain_save_image_define_xml: row(236, { file: text, dxml: text, flags }, {}),
  domain_managed_save: row(182, { dom, flags }, {}),
  domain_has_managed_save_image: row(183, { dom, flags }, { result: int }),
  domain_managed_save_remove: row(184, { dom, flags }, {}),
  domain_managed_save_get_xml_desc: row(388, { dom, flags }, { xml: text }),
  domain_managed_save_define_xml: row(389, { dom, dxml: maybeText, flags }, {}),
  domain_snapshot_create_xml: row(185, { dom, xml_desc: text, flags }, { snap: snapshot }),
  domain_list_all_snapshots: row(
    274,
    { dom, need_results: int, flags },
    { snapshots: array(snapshot, maxListed), ret: int },
  ),
  domain_snapshot_lookup_by_name: row(189, { dom, name: text, flags }, { snap: snapshot }),
  domain_revert_to_snapshot: row(192, { snap: snapshot, flags }, {}),
  domain_snapshot_delete: row(193, { snap: snapshot, flags }, {}),
  domain_block_commit: row(
    290,
    { dom, disk: text, base: maybeText, top: maybeText, bandwidth: uhyper, flags },
    {},
  ),
  domain_get_block_job_info: row(
    238,
    { dom, path: text, flags },
    { found: int, type: int, bandwidth: uhyper, cur: uhyper, end: uhyper },
  ),
  domain_block_job_abort: row(237, { dom, path: text, flags }, {}),

  storage_pool_lookup_by_name: row(84, { name: text }, { pool }),
  storage_pool_create_xml: row(76, { xml: text, flags }, { pool }),
  storage_pool_create: row(78, { pool, flags }, {}),
  storage_pool_refresh: row(83, { pool, flags }, {}),
  storage_pool_get_info: row(
    87,
    { pool },
    { state: uint, capacity: uhyper, allocation: uhyper, available: uhyper },
  ),
  storage_pool_list_all_volumes: row(
    282,
    { pool, need_results: int, flags },
    { vols: array(volume, maxListed), ret: uint },
  ),
  storage_vol_create_xml: row(93, { pool, xml: text, flags }, { vol: volume }),
  storage_vol_create_xml_from: row(
    125,
    { pool, xml: text, clonevol: volume, flags },
    { vol: volume },
  ),
  storage_vol_lookup_by_name: row(95, { pool, name: text }, { vol: volume }),
  storage_vol_lookup_by_path: row(97, { path: text }, { vol: volume }),
  storage_vol_get_xml_desc: row(99, { vol: volume, flags }, { xml: text }),
  storage_vol_delete: row(94, { vol: volume, flags }, {}),

  network_lookup_by_name: row(46, { name: text }, { net: network }),
  network_create: row(39, { net: network }, {}),
  network_create_xml: row(40, { xml: text }, { net: network }),
  network_get_xml_desc: row(43, { net: network, flags }, { xml: text }),
  network_destroy: row(42, { net: network }, {}),
  /** In this order since libvirt 7.2; servers before it take the first two for each other. */
  network_update: row(
    291,
    { net: network, command: uint, section: uint, parent_index: int, xml: text, flags },
    {},
  ),
  connect_list_all_networks: row(
    283,
    { need_results: int, flags },
    { nets: array(network, maxListed), ret: uint },
  ),
  network_get_dhcp_leases: row(
    341,
    { net: network, mac: maybeText, need_results: int, flags },
    { leases: array(lease, 65_536), ret: uint },
  ),

  interface_lookup_by_name: row(128, { name: text }, { iface: hostInterface }),
  interface_get_xml_desc: row(130, { iface: hostInterface, flags }, { xml: text }),

  connect_num_of_nwfilters: row(178, {}, { num: int }),
  nwfilter_lookup_by_name: row(175, { name: text }, { nwfilter }),
  nwfilter_define_xml: row(180, { xml: text }, { nwfilter }),
} as const;

/** Calls whose answer is followed by a stream, and who may write to it. */
export const streamProcedures = {
  domain_open_channel: { ...row(296, { dom, name: maybeText, flags }, {}), direction: 'both' },
  domain_open_console: { ...row(201, { dom, dev_name: maybeText, flags }, {}), direction: 'both' },
  domain_screenshot: {
    ...row(211, { dom, screen: uint, flags }, { mime: maybeText }),
    direction: 'receive',
  },
  storage_vol_upload: {
    ...row(208, { vol: volume, offset: uhyper, length: uhyper, flags }, {}),
    direction: 'send',
  },
  storage_vol_download: {
    ...row(209, { vol: volume, offset: uhyper, length: uhyper, flags }, {}),
    direction: 'receive',
  },
} as const;

export type Direction = 'both' | 'send' | 'receive';

const all = { ...procedures, ...streamProcedures };
export type ProcedureName = keyof typeof procedures;
export type StreamProcedureName = keyof typeof streamProcedures;
export type AnyProcedureName = keyof typeof all;
export type Args<N extends AnyProcedureName> = Infer<(typeof all)[N]['args']>;
export type Result<N extends AnyProcedureName> = Infer<(typeof all)[N]['result']>;

/** A row without the types of its fields, for the code that treats all alike. */
export type Procedure = { number: number; args: Codec<Struct<Fields>>; result: Codec<unknown> };
export function procedureRow(name: AnyProcedureName): Procedure {
  return all[name] as Procedure; // as: the types of `args` differ from row to row
}

/** libvirt's error. */
export const errorMessage = struct({
  code: int,
  domain: int,
  message: maybeText,
  level: int,
  dom: optional(domain),
  str1: maybeText,
  str2: maybeText,
  str3: maybeText,
  int1: int,
  int2: int,
  net: optional(network),
});
