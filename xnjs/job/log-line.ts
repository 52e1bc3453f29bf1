const days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const months = [
  ...['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun'],
  ...['Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'],
];
/** Room for the whole command that submits a job. */
const maxText = 16_000;

/** An entry of a job's log, dated as by Java's `Date.toString()`: `Wed Jun 17 14:54:15 UTC 2026: …`. */
export function logLine(ms: number, text: string): string {
  const date = new Date(ms);
  const two = (value: number): string => String(value).padStart(2, '0');
  const time = [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()].map(two).join(':');
  const day = `${days[date.getUTCDay()] ?? ''} ${months[date.getUTCMonth()] ?? ''}`;
  return `${day} ${two(date.getUTCDate())} ${time} UTC ${date.getUTCFullYear()}: ${text.slice(0, maxText)}`;
}
