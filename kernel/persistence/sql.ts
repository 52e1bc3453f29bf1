import { QueryTypes, type Sequelize, type Transaction } from 'sequelize';

export type SqlValue = string | number | boolean;

/** A statement and its rows. `$1`, `$2`, … stand for the values, and appear in this order. */
export type Sql = <Row extends object = object>(
  text: string,
  values: readonly SqlValue[],
) => Promise<Row[]>;

export type Statement = { readonly text: string; readonly values: readonly SqlValue[] };

/** Through Sequelize's own connections. */
export function sequelizeSql(sequelize: Sequelize, transaction?: Transaction): Sql {
  return async <Row extends object>(text: string, values: readonly SqlValue[]) =>
    await sequelize.query<Row>(text, {
      bind: [...values],
      type: QueryTypes.SELECT,
      ...(transaction && { transaction }),
    });
}
