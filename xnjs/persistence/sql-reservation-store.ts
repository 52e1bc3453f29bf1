import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { Reservation, ReservationStore } from '../reservation/reservation.js';

export const reservationMigrations: readonly Migration[] = [
  {
    name: '001-reservations',
    up: (schema, transaction) =>
      schema.createTable(
        'reservations',
        { id: column.id({ primaryKey: true }), document: column.text() },
        { transaction },
      ),
  },
];

type Row = { id: string; document: string };

/** {@link ReservationStore} in the service's database, after {@link reservationMigrations}. */
export function createReservationStore(database: Database): ReservationStore {
  const rows = database.sequelize.define<Model<Row> & Row>(
    'reservation',
    { id: column.id({ primaryKey: true }), document: column.text() },
    { tableName: 'reservations' },
  );
  return {
    async all() {
      const found = await rows.findAll();
      return found.map(({ document }) => JSON.parse(document) as Reservation); // written below
    },
    async save(reservation) {
      const row = { id: reservation.id, document: JSON.stringify(reservation) };
      await database.transaction((transaction) => rows.upsert(row, { transaction }));
    },
    async remove(id) {
      await database.transaction((transaction) => rows.destroy({ where: { id }, transaction }));
    },
  };
}
