const minuteOfDay = /^([01]\d|2[0-3]):([0-5]\d)$/;
const full = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})([+-]\d{2}):?(\d{2})$/;
const blank = /^(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2})$/;

/**
 * The three forms in which clients write a date (unicore-rest 1.4): `2026-06-17T14:54:15+0200`,
 * `2026-06-17 14:54` and `14:54` (the next time it is that late), the latter two in UTC.
 * @returns ms since the epoch
 */
export function parseDate(text: string, nowMs: number): number | undefined {
  const [, local, hours, minutes] = full.exec(text) ?? [];
  if (local !== undefined) return valid(Date.parse(`${local}${hours ?? ''}:${minutes ?? ''}`));
  const [, day, time] = blank.exec(text) ?? [];
  if (day !== undefined) return valid(Date.parse(`${day}T${time ?? ''}:00Z`));
  if (!minuteOfDay.test(text)) return undefined;
  const today = new Date(nowMs).toISOString().slice(0, 10);
  const at = Date.parse(`${today}T${text}:00Z`);
  return at > nowMs ? at : at + 86_400_000;
}

function valid(ms: number): number | undefined {
  return Number.isNaN(ms) ? undefined : ms;
}
