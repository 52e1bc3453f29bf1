type Unit = readonly [names: readonly string[], factor: number];

/** A unit may be shortened: the first row with a name that begins with it wins (unicore-rest 1.4). */
const units = {
  count: [],
  seconds: [
    [['sec', 'seconds'], 1],
    [['min', 'minutes'], 60],
    [['h', 'hours'], 3_600],
    [['d', 'days'], 86_400],
  ],
  bytes: [
    [['bytes'], 1],
    [['K', 'kilobytes', 'kb'], 1024],
    [['M', 'megabytes', 'mb'], 1024 ** 2],
    [['G', 'gigabytes', 'gb'], 1024 ** 3],
    [['T', 'terabytes', 'tb'], 1024 ** 4],
  ],
} as const satisfies Record<string, readonly Unit[]>;

export type UnitKind = keyof typeof units;

/** `"90"`, `"10m"`, `"2 G"`: whole numbers only. @returns the base unit, `undefined` if it is no such text */
export function parseQuantity(text: string, kind: UnitKind): number | undefined {
  const [, digits, unit = ''] = /^\s*(\d{1,15})\s*([A-Za-z]*)\s*$/.exec(text) ?? [];
  if (digits === undefined) return undefined;
  if (unit === '') return Number(digits);
  const rows: readonly Unit[] = units[kind];
  const row = rows.find(([names]) => names.some((name) => name.startsWith(unit)));
  return row && Number(digits) * row[1];
}
