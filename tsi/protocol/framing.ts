import { TsiError } from './error.js';

/** The line that ends every message (UNICORE TSI API, "Messages"). */
export const terminator = 'ENDOFMESSAGE';
const needle = Buffer.from(`\n${terminator}\n`);

/** Puts a text that ends with a line break, or an empty one, on the wire. */
export function frame(text: string): string {
  return `${text}${terminator}\n`;
}

/**
 * Cuts a byte stream into messages, without their terminators. Linear in the bytes however they are
 * cut; owns no socket.
 */
export class MessageSplitter {
  readonly #limitBytes: number;
  /** What has not been given out, behind a line break: a terminator is always a whole line. */
  #buffer = Buffer.from('\n');
  #start = 0;
  #end = 1;
  #searched = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Bytes of a message that is not complete. */
  get pendingBytes(): number {
    return this.#end - this.#start - 1;
  }

  /** @returns the messages that these bytes complete. @throws {@link TsiError} `TSI_PROTOCOL` */
  push(chunk: Buffer): Buffer[] {
    this.#append(chunk);
    const messages: Buffer[] = [];
    for (let at = this.#find(); at >= 0; at = this.#find()) {
      messages.push(this.#check(Buffer.from(this.#buffer.subarray(this.#start + 1, at + 1))));
      this.#start = at + needle.length - 1;
      this.#searched = this.#start;
    }
    this.#searched = Math.max(this.#start, this.#end - needle.length + 1);
    if (this.pendingBytes > this.#limitBytes + needle.length) this.#refuse();
    return messages;
  }

  #find(): number {
    return this.#buffer.subarray(0, this.#end).indexOf(needle, this.#searched);
  }

  #check(message: Buffer): Buffer {
    return message.length > this.#limitBytes ? this.#refuse() : message;
  }

  #refuse(): never {
    throw new TsiError('TSI_PROTOCOL', `a message is longer than ${this.#limitBytes} bytes`);
  }

  #append(chunk: Buffer): void {
    const held = this.#end - this.#start;
    if (this.#end + chunk.length > this.#buffer.length) {
      const fits = held + chunk.length <= this.#buffer.length / 2;
      const target = fits ? this.#buffer : Buffer.allocUnsafe(2 * (held + chunk.length));
      this.#buffer.copy(target, 0, this.#start, this.#end);
      this.#buffer = target;
      this.#searched = Math.max(0, this.#searched - this.#start);
      this.#start = 0;
      this.#end = held;
    }
    chunk.copy(this.#buffer, this.#end);
    this.#end += chunk.length;
  }
}
