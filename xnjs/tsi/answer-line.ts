import { TsiError } from '#tsi/protocol/error.js';
import { answerWord, longestGreeting } from '#tsi/protocol/greeting.js';

const lineBreak = 0x0a;
const begin = answerWord.charCodeAt(0);

/** What an agent that was greeted says before HTTP/2: one line, or nothing where it does not know greetings. */
export class AnswerLine {
  /** Absent: it has said none. */
  text: string | undefined;
  #seen = Buffer.alloc(0);

  /**
   * @returns what follows it; `undefined`: there is more to come
   * @throws `TSI_PROTOCOL` when it has no end
   */
  push(chunk: Buffer): Buffer | undefined {
    this.#seen = Buffer.concat([this.#seen, chunk]);
    // a frame of HTTP/2 begins with its length, which is less by far
    if (this.#seen[0] !== begin) return this.#seen;
    const end = this.#seen.indexOf(lineBreak);
    if (end < 0 && this.#seen.length > longestGreeting)
      throw new TsiError('TSI_PROTOCOL', 'the answer to a greeting is too long', {});
    if (end < 0) return undefined;
    this.text = this.#seen.toString('latin1', 0, end);
    return this.#seen.subarray(end + 1);
  }
}
