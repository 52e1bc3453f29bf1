import { GridError } from '#kernel/errors.js';

/**
 * What goes wrong between XNJS and TSI. `TSI_UNAVAILABLE`: nothing answered; `TSI_FAILED`: the TSI
 * refused, the message is its text; `TSI_PROTOCOL`: one side broke the rules of the wire.
 */
export class TsiError extends GridError<'TSI_UNAVAILABLE' | 'TSI_PROTOCOL' | 'TSI_FAILED'> {}
